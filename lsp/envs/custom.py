"""Anybody's task: a Gymnasium environment as agents want it, from its name or as an object.

Agents act with numbers in [-1, 1] and observe float32 vectors and 64x64 images.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Space
from jaxtyping import Float, UInt8
from PIL import Image

from lsp.envs.lookup import Env, Task, _make, _said, _short, task_name
from lsp.errors import UserError

IMAGE_SIZE = 64  # pixels a side that the agent sees
CHANNELS = (1, 3, 4)
MIN_GREY_SIZE = 16  # pixels a side; a smaller matrix of bytes is no image
MAX_OPEN_STEPS = 10_000  # control steps of an episode that nothing is known to limit
LARGEST_REWARD = 1e15  # sums of squares of smaller ones are still float32
_UNLIMITED = 1e10  # an action's bound from here on is none


def make_user_env(task: Task, obs: str = "proprio") -> "UserEnv":
    """Makes a user's task: ``gymnasium:ID``, ``package.module:name``, an environment or a function.

    The current working directory is importable. A task of Gymnasium's is made to render pictures
    where it can.

    Raises:
      UserError: there is no such task, making it fails, agents cannot act in it or observe it, or
        ``obs`` is not ``proprio``.
    """
    name = task if isinstance(task, str) else task_name(task)
    if obs != "proprio":
        raise UserError(
            f"{name}: obs must be proprio, not '{obs}': the task's observation space says what is "
            "seen, images included."
        )
    return UserEnv(_make(task, name), name)


class UserEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A user's environment with the spaces that agents know.

    Actions are float32 [A] in [-1, 1]; they are clipped, mapped affinely to the bounds of the
    environment's Box, rounded where it holds integers, and get its shape and dtype. Observations
    are a dict, nested keys joined with "/", a lone Box as ``image`` or ``observation``: uint8
    images [64, 64, C], everything else as float32 vectors [n].

    An image is a uint8 Box [H, W, C] or [C, H, W] with 1, 3 or 4 channels, or [H, W] of at least
    16x16; other sizes are averaged to 64x64.

    Raises:
      UserError: the actions are no bounded Box, or the observations no Box or Dict of Boxes; later,
        if an observation does not fit its space, or something is not finite.
    """

    def __init__(self, env: Env, task: str):
        super().__init__(env)
        self.task = task
        actions = _action_box(env, task)
        self._low, self._high = (np.asarray(x, np.float64) for x in (actions.low, actions.high))
        self._dtype = actions.dtype
        self._parts = _parts(env, task)
        self._limited = _has_time_limit(env)
        self._steps = 0
        self.action_space = Box(-1.0, 1.0, (self._low.size,), np.float32)
        # Given as pairs: Gymnasium sorts a plain dict's keys.
        self.observation_space = Dict([(key, part.seen()) for key, part in self._parts.items()])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode; ``seed`` and ``options`` are the environment's."""
        self._steps = 0
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observe(observation), _without_state(info)

    def step(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Takes one control step.

        Raises:
          UserError: the action has the wrong shape or holds a NaN; an observation or the reward is
            not finite; or the episode goes on without end.
        """
        observation, paid, terminated, truncated, info = self.env.step(self._to_control(action))
        reward, ended = float(paid), bool(terminated or truncated)
        self._steps += 1
        if not abs(reward) < LARGEST_REWARD:  # NaN neither
            raise UserError(
                f"{self.task}: the reward is {reward} at step {self._steps} of an episode: mend "
                "the environment."
            )
        if self._steps >= MAX_OPEN_STEPS and not (ended or self._limited):
            raise UserError(
                f"{self.task}: an episode has not ended after {self._steps} steps: wrap the "
                "environment in gymnasium.wrappers.TimeLimit."
            )
        seen = self._observe(observation)
        return seen, reward, bool(terminated), bool(truncated), _without_state(info)

    def render(self) -> np.ndarray:
        """The present state as a picture.

        Raises:
          UserError: the environment was not made with ``render_mode="rgb_array"``, or fails.
        """
        if self.render_mode != "rgb_array":
            raise UserError(
                f"{self.task}: no pictures, as its render_mode is {self.render_mode!r}: make it "
                "with render_mode='rgb_array' where it offers that."
            )
        try:
            return np.asarray(self.env.render())
        except Exception as error:
            raise UserError(f"{self.task}: cannot render: {_said(error)}") from error

    def _to_control(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float64)
        if action.shape != (self._low.size,) or np.isnan(action).any():
            raise UserError(
                f"{self.task}: an action must be {self._low.size} numbers without NaN, "
                f"got shape {action.shape}: {_short(action)}"
            )
        action = np.clip(action, -1.0, 1.0).reshape(self._low.shape)
        # Written so that -1 and 1 give the limits exactly.
        control = 0.5 * (1 - action) * self._low + 0.5 * (1 + action) * self._high
        if not np.issubdtype(self._dtype, np.floating):
            control = np.rint(control)
        return np.asarray(control, self._dtype)

    def _observe(self, observation: Any) -> dict[str, np.ndarray]:
        return {key: self._read(key, part, observation) for key, part in self._parts.items()}

    def _read(self, key: str, part: "_Part", observation: Any) -> np.ndarray:
        """A copy, as the environment may write its next observation over this one."""
        value = observation
        for step in part.path:
            if step not in value:
                raise UserError(
                    f"{self.task}: an observation lacks '{key}', which its observation space has."
                )
            value = value[step]
        value = np.asarray(value)
        wrong_kind = value.dtype != np.uint8 if part.image else value.dtype.kind not in "fiub"
        if value.shape != part.shape or wrong_kind:
            raise UserError(
                f"{self.task}: observation '{key}' is {value.dtype} of shape {value.shape}, not "
                f"{part.dtype} of shape {part.shape} as its observation space says."
            )
        if part.image:
            return _to_image(value)
        vector = _to_vector(value)
        if not np.isfinite(vector).all():
            raise UserError(
                f"{self.task}: observation '{key}' is not finite at step {self._steps} of an "
                f"episode: {_short(value)}: fix the environment, or leave that key out."
            )
        return vector


class _Part(NamedTuple):
    """One Box of an observation space: the keys that lead to it, and what it holds."""

    path: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def image(self) -> bool:
        if self.dtype != np.uint8:
            return False
        if len(self.shape) == 2:
            return min(self.shape) >= MIN_GREY_SIZE
        return len(self.shape) == 3 and (self.shape[-1] in CHANNELS or self.shape[0] in CHANNELS)

    @property
    def key(self) -> str:
        if self.path:
            return "/".join(str(step) for step in self.path)
        return "image" if self.image else "observation"

    def seen(self) -> Box:
        """The space of what the agent sees of it."""
        if not self.image:
            return Box(-np.inf, np.inf, (int(np.prod(self.shape)),), np.float32)
        channels = 1
        if len(self.shape) == 3:
            channels = self.shape[-1] if self.shape[-1] in CHANNELS else self.shape[0]
        return Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, channels), np.uint8)


def _to_vector(value: np.ndarray) -> Float[np.ndarray, " n"]:
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is found later
        return np.array(value, np.float32).reshape(-1)


def _to_image(value: np.ndarray) -> UInt8[np.ndarray, "64 64 channels"]:
    if value.ndim == 2:
        value = value[..., None]
    elif value.shape[-1] not in CHANNELS:
        value = np.moveaxis(value, 0, -1)
    if value.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE):
        return np.array(value, order="C")
    # One by one: of four channels Pillow would take the last for transparency.
    return np.stack([_resized(channel) for channel in np.moveaxis(value, -1, 0)], -1)


def _resized(channel: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "64 64"]:
    picture = Image.fromarray(np.ascontiguousarray(channel))
    return np.asarray(picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.HAMMING))


def _without_state(info: dict[str, Any]) -> dict[str, Any]:
    # Replay files keep `sim_state` to relabel old episodes, which users' tasks cannot.
    return {key: value for key, value in info.items() if key != "sim_state"}


def _action_box(env: Env, task: str) -> Box:
    space = getattr(env, "action_space", None)
    if not isinstance(space, Box):
        raise _refusal(env, task, "its actions must be a Box")
    low, high = (np.asarray(x, np.float64) for x in (space.low, space.high))
    if low.size == 0:
        raise _refusal(env, task, "it has no actions")
    if not ((np.abs(low) < _UNLIMITED) & (np.abs(high) < _UNLIMITED)).all():
        raise _refusal(env, task, "its actions must have finite bounds")
    if (low == high).all():
        raise _refusal(env, task, "its actions have no room, low being high")
    return space


def _parts(env: Env, task: str) -> dict[str, _Part]:
    """What is observed, by the agent's key; empty Boxes are left out."""
    parts: dict[str, _Part] = {}
    for path, space in _leaves(getattr(env, "observation_space", None)):
        if not isinstance(space, Box) or space.dtype is None:
            raise _refusal(env, task, "its observations must be a Box or a Dict of Boxes")
        part = _Part(path, space.shape, np.dtype(space.dtype))
        if part.key in parts:
            raise _refusal(env, task, f"two of its observations are called '{part.key}'")
        if np.prod(space.shape) > 0:
            parts[part.key] = part
    if not parts:
        raise _refusal(env, task, "it observes nothing")
    return parts


def _leaves(space: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The spaces inside nested Dicts, and the keys that lead there."""
    if not isinstance(space, Dict):
        yield path, space
        return
    for key, inner in space.spaces.items():
        yield from _leaves(inner, (*path, key))


def _refusal(env: Env, task: str, problem: str) -> UserError:
    spaces: list[Space[Any] | None] = [
        getattr(env, name, None) for name in ("observation_space", "action_space")
    ]
    observation, action = (_short(space) for space in spaces)
    return UserError(
        f"{task}: {problem}; wrap the environment to change that "
        f"(observation space {observation}, action space {action})."
    )


def _has_time_limit(env: Env) -> bool:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return True
        env = env.env
    return False
