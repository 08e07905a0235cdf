"""The quadruped's tasks that dm_control does not ship: goals, obstacles, upright starts."""

from dataclasses import dataclass

import numpy as np
from dm_control.rl import control
from dm_control.suite import base, common, quadruped
from jaxtyping import Float64
from lxml import etree

from lsp.envs.quadruped import (
    GOAL_RADIUS,
    Measurements,
    Reward,
    arrive,
    assemble,
    reach,
    walk,
)

CONTROL_STEP = 0.02  # seconds
TIME_LIMIT = 20.0  # seconds: 1000 control steps
FLOOR = 20.0  # metres from the middle to each side, drawn only: the ground is endless
UPRIGHT_NOISE = 0.02  # standard deviation of an upright start's quaternion
GOAL_DISTANCE = (4.0, 8.0)  # metres from the start, in a random direction
OBSTACLE_RADIUS = 0.2  # metres
OBSTACLE_HEIGHT = 1.0  # metres: twice the torso's height, too high to climb
NUM_RANDOM_OBSTACLES = 16
FIELD = 8.0  # metres around the start in which random obstacles stand
OBSTACLE_SPACING = 2.0  # metres between the centres of random obstacles: the legs span 1.3
CLEARANCE = 1.6  # metres from start and goal to the centre of a random obstacle
NUM_RANGES = 16  # range finders, evenly around the torso
RANGE_LIMIT = 5.0  # metres
CAMERA = "arena"  # from behind and above, for people

# Metres. A wall across the way, and one bent around whoever heads straight for the goal: out of the
# bend every way leads farther from the goal at first.
LINE_GOAL = (5.0, 0.0)
LINE = tuple((2.5, float(y)) for y in np.linspace(-1.4, 1.4, 8))
COVE_GOAL = (3.0, 0.0)
COVE = tuple(
    (0.8 + 1.1 * float(np.cos(angle)), 1.1 * float(np.sin(angle)))
    for angle in np.linspace(-np.pi / 3, np.pi / 3, 7)
)

Place = tuple[float, float]


@dataclass(frozen=True)
class Spec:
    """What distinguishes one task from another."""

    reward: Reward
    upright: bool = True  # else any orientation at the start
    goal: Place | None = None  # else drawn for each episode
    obstacles: tuple[Place, ...] | int = ()  # where they stand, or how many are drawn
    seeks_goal: bool = True  # else the reward ignores the goal
    sees_obstacles: bool = False


TASKS = {
    "quadruped_upright_walk": Spec(walk, seeks_goal=False),
    "quadruped_getup_walk": Spec(walk, upright=False, seeks_goal=False),
    "quadruped_reach": Spec(reach),
    "quadruped_getup_reach": Spec(reach, upright=False),
    "quadruped_obstacles_walk": Spec(
        walk, seeks_goal=False, obstacles=NUM_RANDOM_OBSTACLES, sees_obstacles=True
    ),
    "quadruped_obstacles_reach": Spec(reach, obstacles=NUM_RANDOM_OBSTACLES, sees_obstacles=True),
    "quadruped_line": Spec(reach, goal=LINE_GOAL, obstacles=LINE, sees_obstacles=True),
    "quadruped_cove": Spec(arrive, goal=COVE_GOAL, obstacles=COVE, sees_obstacles=True),
}
"""One observation space for the first four, and one for the others: skills carry over."""


def load(name: str) -> control.Environment:
    """One of `TASKS`, as dm_control's suite would load it."""
    spec = TASKS[name]
    physics = quadruped.Physics.from_xml_string(_model(spec), common.ASSETS)
    return control.Environment(
        physics, ArenaTask(spec), time_limit=TIME_LIMIT, control_timestep=CONTROL_STEP
    )


class ArenaTask(base.Task):  # type: ignore[misc]  # dm_control has no types
    """A quadruped with a goal, and perhaps obstacles, in a flat arena."""

    def __init__(self, spec: Spec):
        self.spec = spec
        self.goal = np.zeros(3)
        self.obstacles = np.zeros((_count(spec), 2))
        self.reached = False
        super().__init__(random=0)

    def initialize_episode(self, physics: quadruped.Physics) -> None:
        self.goal[:2] = _draw_goal(self.random) if self.spec.goal is None else self.spec.goal
        if isinstance(self.spec.obstacles, int):
            self.obstacles[:] = _scatter(self.random, self.spec.obstacles, self.goal[:2])
        else:
            self.obstacles[:] = np.reshape(self.spec.obstacles, (-1, 2))
        physics.named.model.site_pos["goal"] = self.goal
        orientation = self.random.randn(4)
        if self.spec.upright:
            orientation = np.array([1.0, 0, 0, 0]) + UPRIGHT_NOISE * orientation
        orientation /= np.linalg.norm(orientation)
        # Private, and what the suite's own tasks start with.
        quadruped._find_non_contacting_height(physics, orientation)
        physics.data.mocap_pos[:, :2] = self.obstacles  # last: the search resets them
        self.reached = False
        super().initialize_episode(physics)

    def after_step(self, physics: quadruped.Physics) -> None:
        if self.spec.seeks_goal and not self.reached:
            self.reached = bool(Measurements(self.state(physics)).distance <= GOAL_RADIUS)

    def get_observation(self, physics: quadruped.Physics) -> dict[str, np.ndarray]:
        observation: dict[str, np.ndarray] = quadruped._common_observations(physics)
        observation = observation | self.observe_goal(physics)
        if self.spec.sees_obstacles:
            heading = float(Measurements(self.state(physics)).heading)
            observation["ranges"] = ranges(physics.data.qpos[:2], heading, self.obstacles)
        return observation

    def observe_goal(self, physics: quadruped.Physics) -> dict[str, np.ndarray]:
        """Distance, and how far ahead and to the left of the robot's heading: metres on the ground.

        What a reward reads stands by itself, and neither rolling nor pitching moves it, so that a
        model can tell where the goal will be (docs/notebook/quadrupeds.md).
        """
        now = Measurements(self.state(physics))
        x, y, _ = now.goal - now.position
        cos, sin = np.cos(now.heading), np.sin(now.heading)
        return {"goal": np.array([now.distance, x * cos + y * sin, y * cos - x * sin])}

    def get_reward(self, physics: quadruped.Physics) -> float:
        # As an episode of one step, so that a stored episode gives the same bits.
        return self.spec.reward(self.state(physics)[None], physics.control()[None]).item()

    def state(self, physics: quadruped.Physics) -> Float64[np.ndarray, " state"]:
        """All that observation and reward depend on."""
        return assemble(physics.get_state(), self.goal, self.obstacles)


def ranges(
    position: Float64[np.ndarray, " 2"],
    heading: float,
    obstacles: Float64[np.ndarray, "count 2"],
) -> Float64[np.ndarray, " rays"]:
    """Metres to the nearest obstacle, straight ahead first, then counter-clockwise.

    At most RANGE_LIMIT; 0 where the torso's middle is inside one.
    """
    angles = heading + 2 * np.pi / NUM_RANGES * np.arange(NUM_RANGES)
    rays = np.stack([np.cos(angles), np.sin(angles)])
    offsets = obstacles - position
    along = offsets @ rays  # where each ray passes each centre nearest
    # Half the chord that the ray cuts out of the cylinder, squared; negative where it misses.
    chord = OBSTACLE_RADIUS**2 - (offsets**2).sum(-1)[:, None] + along**2
    distance = along - np.sqrt(np.maximum(chord, 0))
    hit = (chord > 0) & (along > 0)
    nearest = np.where(hit, distance, RANGE_LIMIT).min(0, initial=RANGE_LIMIT)
    lengths: np.ndarray = np.maximum(nearest, 0)
    return lengths


def _count(spec: Spec) -> int:
    return spec.obstacles if isinstance(spec.obstacles, int) else len(spec.obstacles)


def _draw_goal(random: np.random.RandomState) -> Float64[np.ndarray, " 2"]:
    distance, angle = random.uniform(*GOAL_DISTANCE), random.uniform(0, 2 * np.pi)
    return distance * np.array([np.cos(angle), np.sin(angle)])


def _scatter(
    random: np.random.RandomState, count: int, goal: Float64[np.ndarray, " 2"]
) -> Float64[np.ndarray, "count 2"]:
    """Places in the field, away from start, goal and each other."""
    places: list[np.ndarray] = []
    while len(places) < count:
        place = random.uniform(-FIELD, FIELD, 2)
        apart = all(np.linalg.norm(place - other) > OBSTACLE_SPACING for other in places)
        free = min(np.linalg.norm(place), np.linalg.norm(place - goal)) > CLEARANCE
        if apart and free:
            places.append(place)
    return np.array(places)


def _model(spec: Spec) -> bytes:
    """The suite's quadruped, with the goal and the obstacles in its world."""
    model = etree.XML(quadruped.make_model(floor_size=FLOOR))
    world = model.find("worldbody")
    # Obstacles meet the robot, and neither the ground nor each other.
    model.find(".//default[@class='body']/geom").attrib["conaffinity"] = "3"
    torso = world.find("body[@name='torso']")
    _add(torso, "camera", name=CAMERA, pos="-6 0 7", xyaxes="0 -1 0 .75 0 .65", mode="trackcom")
    # A goal that the reward ignores is there to be observed, not to be seen.
    rgba = ".8 .1 .1 .6" if spec.seeks_goal else "0 0 0 0"
    # MuJoCo takes a site that is compiled at its body's origin for one that never leaves it.
    size = f"{GOAL_RADIUS} .02"
    _add(world, "site", name="goal", type="cylinder", size=size, rgba=rgba, pos="1 1 1")
    for number in range(_count(spec)):
        half = OBSTACLE_HEIGHT / 2
        # Far away until an episode begins. Mocap bodies are those that one may move.
        place = f"{10 * FLOOR} 0 {half}"
        body = _add(world, "body", name=f"obstacle_{number}", pos=place, mocap="true")
        size = f"{OBSTACLE_RADIUS} {half}"
        _add(
            body,
            "geom",
            name=f"obstacle_{number}",
            type="cylinder",
            size=size,
            rgba=".3 .4 .6 1",
            mass="0",
            contype="2",
            conaffinity="0",
        )
    text: bytes = etree.tostring(model)
    return text


def _add(parent: etree._Element, tag: str, **attributes: str) -> etree._Element:
    return etree.SubElement(parent, tag, attributes)
