"""What the quadruped's tasks measure and reward: pure functions of stored simulator states.

They take a whole episode at once, so that an old one can be paid for another task (section 4.3).
"""

from collections.abc import Callable

import numpy as np
from dm_control.utils.rewards import tolerance
from jaxtyping import Float64

WALK_SPEED = 0.5  # metres a second (dm_control's quadruped)
GOAL_RADIUS = 0.5  # metres
REACH_MARGIN = 8.0  # metres from the goal's rim at which reaching pays nothing

# Layout of a state: MuJoCo's positions, velocities and actuator activations, then what an episode
# draws for itself.
_POSITIONS, _VELOCITIES, _ACTIVATIONS = 23, 22, 12
_PHYSICS = _POSITIONS + _VELOCITIES + _ACTIVATIONS
_ROOT_POSITIONS, _ROOT_VELOCITIES = 7, 6

States = Float64[np.ndarray, "*time state"]
Controls = Float64[np.ndarray, "*time action"]
"""What the actuators were told, in their own units."""
PerStep = Float64[np.ndarray, "*time"] | np.float64
"""One number for each state, and a plain one for a single state."""
Reward = Callable[[States, Controls], PerStep]
"""(states after each control step, the controls that led there) → reward of each, in [0, 1]."""


class Measurements:
    """What simulator states say about the robot and its arena: metres, seconds and radians.

    `states` are those of any of this package's own quadruped tasks; every property has their
    leading axes, and is computed when it is asked for.
    """

    def __init__(self, states: States):
        self.states = states
        # Number by number, not as matrix products: the same bits for one state and for a thousand.
        w, x, y, z = (states[..., i] for i in range(3, _ROOT_POSITIONS))
        size = np.sqrt(w * w + x * x + y * y + z * z)
        self._quaternion = w / size, x / size, y / size, z / size

    @property
    def position(self) -> Float64[np.ndarray, "*time 3"]:
        """Of the torso, in the arena."""
        return self.states[..., :3]

    @property
    def upright(self) -> PerStep:
        """Cosine of the angle between the torso's axis and the vertical."""
        _, x, y, _ = self._quaternion
        cosine: PerStep = 1 - 2 * (x * x + y * y)
        return cosine

    @property
    def heading(self) -> PerStep:
        """Where the torso's front points, counter-clockwise from the arena's x axis."""
        x, y, _ = self._front
        return np.arctan2(y, x)

    @property
    def forward_speed(self) -> PerStep:
        """Of the torso, along its own front."""
        (a, b, c), speeds = self._front, self.states[..., _POSITIONS : _POSITIONS + 3]
        return a * speeds[..., 0] + b * speeds[..., 1] + c * speeds[..., 2]

    @property
    def joint_angles(self) -> Float64[np.ndarray, "*time 16"]:
        """Yaw, pitch, knee and ankle of the front left leg, then right, back right, back left."""
        return self.states[..., _ROOT_POSITIONS:_POSITIONS]

    @property
    def joint_velocities(self) -> Float64[np.ndarray, "*time 16"]:
        """In the order of the angles."""
        return self.states[..., _POSITIONS + _ROOT_VELOCITIES : _POSITIONS + _VELOCITIES]

    @property
    def goal(self) -> Float64[np.ndarray, "*time 3"]:
        """In the arena."""
        return self.states[..., _PHYSICS : _PHYSICS + 3]

    @property
    def distance(self) -> PerStep:
        """From the torso to the goal, over the ground."""
        x, y = (self.states[..., _PHYSICS + i] - self.states[..., i] for i in range(2))
        metres: PerStep = np.sqrt(x * x + y * y)
        return metres

    @property
    def obstacles(self) -> Float64[np.ndarray, "*time count 2"]:
        """Centres of the cylinders, in the arena."""
        return self.states[..., _PHYSICS + 3 :].reshape(*self.states.shape[:-1], -1, 2)

    @property
    def _front(self) -> tuple[PerStep, PerStep, PerStep]:
        """The torso's own x axis, in the arena."""
        w, x, y, z = self._quaternion
        return 1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)


def assemble(
    physics: Float64[np.ndarray, " physics"],
    goal: Float64[np.ndarray, " 3"],
    obstacles: Float64[np.ndarray, "count 2"],
) -> Float64[np.ndarray, " state"]:
    """The state that `Measurements` reads."""
    return np.concatenate([physics, goal, obstacles.ravel()])


def walk(states: States, controls: Controls) -> PerStep:
    """Upright, and forward at walking speed or faster: dm_control's own reward."""
    now = Measurements(states)
    moving: PerStep = tolerance(
        now.forward_speed,
        bounds=(WALK_SPEED, np.inf),
        margin=WALK_SPEED,
        value_at_margin=0.5,
        sigmoid="linear",
    )
    reward: PerStep = _standing(now) * moving
    return reward


def reach(states: States, controls: Controls) -> PerStep:
    """Upright, and near the goal: 1 inside its radius, falling linearly outside.

    A long tail would pay next to nothing where the robot starts, for standing and for coming nearer
    alike (docs/notebook/quadrupeds.md).
    """
    now = Measurements(states)
    near = tolerance(
        now.distance,
        bounds=(0, GOAL_RADIUS),
        margin=REACH_MARGIN,
        value_at_margin=0,
        sigmoid="linear",
    )
    reward: PerStep = _standing(now) * near
    return reward


def arrive(states: States, controls: Controls) -> PerStep:
    """1 inside the goal's radius, else 0."""
    inside: PerStep = tolerance(Measurements(states).distance, bounds=(0, GOAL_RADIUS))
    return inside


def _standing(now: Measurements) -> PerStep:
    """1 when upright, 0 upside down (dm_control's own)."""
    bounds = (1, np.inf)
    standing: PerStep = tolerance(
        now.upright, bounds=bounds, margin=2, value_at_margin=0, sigmoid="linear"
    )
    return standing
