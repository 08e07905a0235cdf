"""Where a robot is on the ground, and where decoded observations say that it goes from there."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lsp.envs.quadruped import Measurements

Observations = Mapping[str, np.ndarray]


class Pose(NamedTuple):
    """Metres on the ground, and the heading in radians, counter-clockwise from the x axis."""

    x: float
    y: float
    heading: float

    def to_world(self, way: Float[np.ndarray, "*points 2"]) -> Float[np.ndarray, "*points 2"]:
        """Of points ahead and to the left of this pose."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        ahead, left = way[..., 0], way[..., 1]
        return np.stack([self.x + cos * ahead - sin * left, self.y + sin * ahead + cos * left], -1)

    def to_body(self, point: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
        """How far a point is ahead and to the left."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        x, y = point[0] - self.x, point[1] - self.y
        return np.array([cos * x + sin * y, cos * y - sin * x])


def goal_of(task: str, info: Mapping[str, Any]) -> tuple[float, float] | None:
    """Where a quadruped's task asks to go, in metres in the arena; None of tasks that do not."""
    if "success" not in info or not task.startswith("quadruped_"):
        return None
    x, y, _ = Measurements(np.asarray(info["sim_state"])[-1]).goal
    return float(x), float(y)


def pose_of(task: str, info: Mapping[str, Any]) -> Pose | None:
    """Of a quadruped, after a reset or an agent step; None of other bodies."""
    state = info.get("sim_state")
    if state is None or not task.startswith("quadruped_"):
        return None
    now = Measurements(np.asarray(state)[max(info["env_steps"], 1) - 1])
    return Pose(float(now.position[0]), float(now.position[1]), float(now.heading))


def tells_ways(keys: Collection[str]) -> bool:
    """Whether `way` can be read on observations of these keys: a quadruped's."""
    return "torso_velocity" in keys and "imu" in keys


def way(
    observations: Observations, seconds: float
) -> tuple[Float[np.ndarray, "time *batch 2"], Float[np.ndarray, "time *batch"]]:
    """The way over the ground that a quadruped's speed and gyroscope tell, integrated.

    Where a goal is seen it would be a landmark, but a model foresees speeds better than distances
    (docs/notebook/skills.md).

    Args:
        observations: `torso_velocity` and `imu`, `[time, *batch, n]`.
        seconds: between two of them.

    Returns:
        Metres ahead and to the left of the first pose, and the heading relative to it, in radians.
    """
    velocity, imu = observations["torso_velocity"], observations["imu"]
    heading = _integral(imu[..., 5], seconds)  # the gyroscope's third: turning to the left
    cos, sin = np.cos(heading), np.sin(heading)
    ahead, left = velocity[..., 0], velocity[..., 1]
    speeds = np.stack([cos * ahead - sin * left, sin * ahead + cos * left], -1)
    return _integral(speeds, seconds), heading


def _integral(rate: Float[np.ndarray, "time *rest"], seconds: float) -> np.ndarray:
    """From 0, by trapezoids."""
    steps = (rate[1:] + rate[:-1]) / 2 * seconds
    return np.concatenate([np.zeros_like(rate[:1]), np.cumsum(steps, 0)])
