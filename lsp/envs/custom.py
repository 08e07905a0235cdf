"""Anybody's task: a Gymnasium environment as agents want it, from its name or as an object.

Agents act with numbers in [-1, 1] and observe float32 vectors and 64x64 images.
"""

import copy
import importlib
import operator
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Space
from jaxtyping import Float, UInt8
from PIL import Image

from lsp.errors import UserError

Env: TypeAlias = gymnasium.Env[Any, Any]
Task: TypeAlias = str | Env | Callable[[], Env]
"""A task's name, an environment, or a function that makes one."""

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


class Maker:
    """Makes a new environment at every call: calls a function, or copies an environment.

    Raises UserError where that fails, and where a function returns what it returned before.
    """

    def __init__(self, task: Env | Callable[[], Env]):
        self.task, self.name = task, task_name(task)
        self._last: Env | None = None

    def __call__(self) -> Env:
        if isinstance(self.task, gymnasium.Env):
            return _copy(self.task, self.name)
        env = _call(self.task, self.name)
        if env is self._last:
            raise UserError(
                f"{self.name}: it returned the same environment twice: make a new one at each call."
            )
        self._last = env
        return env

    def __reduce__(self) -> tuple[Any, ...]:
        # To worker processes it goes without what it has made here.
        return Maker, (self.task,)


def find_reward(reference: str) -> Callable[..., Any]:
    """A user's own reward, ``package.module:function``; the current folder is importable.

    Raises:
      UserError: there is no such function.
    """
    module, _, name = reference.partition(":")
    if not module or module.startswith(".") or not name:
        raise UserError(f"reward '{reference}': write it as package.module:function.")
    _make_folder_importable()
    return _find(module, name, f"reward '{reference}'", "a function of (states, actions)")


def task_name(task: Env | Callable[[], Env]) -> str:
    """What a run calls a task that was passed from Python: ``python:module.ClassName``."""
    if isinstance(task, Maker):
        return task.name
    source = type(task.unwrapped) if isinstance(task, gymnasium.Env) else task
    named = source if hasattr(source, "__qualname__") else type(source)
    return f"python:{named.__module__}.{named.__qualname__}"


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
                f"episode: {_short(value)}: mend the environment, or leave that key out."
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
    # Replay files keep `sim_state` to pay for old episodes anew, which users' tasks cannot.
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


def _make(task: Task, name: str) -> Env:
    if isinstance(task, gymnasium.Env):
        return task
    if not isinstance(task, str):
        return _call(task, name)
    first, _, rest = task.partition(":")
    if first == "python":
        raise UserError(
            f"{task}: this task was passed from Python: pass it again, as lsp.train(env, ...), "
            "lsp.evaluate(run, env=env) or lsp.load(run, env=env)."
        )
    _make_folder_importable()
    if first == "gymnasium":
        return _make_registered(rest, task)
    return _call(_find(first, rest, task), task)


def _make_folder_importable() -> None:
    """As ``python -m`` does; the command ``lsp`` lies in another folder."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _make_registered(identifier: str, task: str) -> Env:
    try:
        env: Env = gymnasium.make(identifier)
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError(
            f"{task}: {_short(error)} gymnasium.pprint_registry() lists them."
        ) from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UserError(f"{task}: {_short(error)}") from error
    except Exception as error:
        raise UserError(f"{task}: making it failed: {_said(error)}") from error
    if "rgb_array" not in (env.metadata.get("render_modes") or ()):
        return env
    try:
        with_pictures: Env = gymnasium.make(identifier, render_mode="rgb_array")
    except Exception:  # it works without, which is enough to train
        return env
    env.close()
    return with_pictures


def _find(
    module_name: str,
    name: str,
    task: str,
    wanted: str = "a function or class that makes an environment",
) -> Callable[..., Any]:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{task}: importing it failed: {_said(error)}") from error
        raise UserError(
            f"{task}: there is no module '{error.name}', here or installed: start in the folder "
            "that holds it, and write package.module:name."
        ) from error
    except Exception as error:
        raise UserError(f"{task}: importing it failed: {_said(error)}") from error
    try:
        found: Callable[..., Any] = operator.attrgetter(name)(module)
    except AttributeError as error:
        raise UserError(f"{task}: module '{module_name}' has no '{name}'.") from error
    if not callable(found):
        raise UserError(f"{task}: '{name}' must be {wanted}, not {_short(repr(found))}.")
    return found


def _call(make: Callable[[], Env], task: str) -> Env:
    try:
        env = make()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{task}: making it failed: {_said(error)}") from error
    if not isinstance(env, gymnasium.Env):
        raise UserError(f"{task}: it must return a gymnasium.Env, not {_short(repr(env))}.")
    return env


def _copy(env: Env, task: str) -> Env:
    """The environment made again as it was registered, or else copied as it is."""
    if env.spec is not None:
        try:
            return gymnasium.make(env.spec)
        except Exception:  # wrapped in what Gymnasium cannot repeat
            pass
    try:
        return copy.deepcopy(env)
    except Exception as error:
        raise UserError(
            f"{task}: it cannot be copied ({_said(error)}): pass a function that makes it."
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {_short(error)}"


def _short(thing: Any) -> str:
    """One line of bounded length."""
    return textwrap.shorten(str(thing), 240, placeholder=" ...")
