"""Tasks as a user would write them: `lsp train --task tests.own_tasks:Reach`."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

STEP = 0.1  # how far an action moves the point along each axis, at most
RADIUS = 0.2  # of the goal
TIME_LIMIT = 100


class Reach(gymnasium.Env[Any, np.ndarray]):
    """A point in a square of side 2 must reach a goal, which ends the episode.

    Every step costs the distance that is left. With `pictures` a 32x32 image shows point and goal
    too.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    action_space = Box(-STEP, STEP, (2,), np.float64)

    def __init__(self, pictures: bool = False) -> None:
        self.pictures, self.render_mode = pictures, "rgb_array"
        square = Box(-1, 1, (2,), np.float64)
        spaces: dict[str, gymnasium.Space[Any]] = {
            "position": square,
            "goal": square,
            "time_left": Box(0, 1, (), np.float64),
        }
        if pictures:
            spaces["image"] = Box(0, 255, (32, 32, 3), np.uint8)
        self.observation_space = Dict(spaces)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.position, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        self.time = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.position = np.clip(self.position + action, -1, 1)
        self.time += 1
        distance = self.distance()
        reached = distance < RADIUS
        truncated = not reached and self.time >= TIME_LIMIT
        return self.observe(), -distance, reached, truncated, {"success": reached}

    def distance(self) -> Any:
        return float(np.linalg.norm(self.position - self.goal))

    def observe(self) -> Any:
        seen = {"position": self.position.copy(), "goal": self.goal.copy()}
        seen["time_left"] = np.float64(1 - self.time / TIME_LIMIT)
        return seen | {"image": self.picture(32)} if self.pictures else seen

    def render(self) -> Any:
        return self.picture(64)

    def picture(self, size: Any) -> Any:
        """The goal in green, the point in red, a sixteenth of the side each."""
        image, dot = np.zeros((size, size, 3), np.uint8), size // 16
        for channel, (x, y) in ((1, self.goal), (0, self.position)):
            row, column = (int((c + 1) / 2 * (size - dot)) for c in (y, x))
            image[row : row + dot, column : column + dot, channel] = 255
        return image


def reach_with_pictures() -> Any:
    return Reach(pictures=True)
