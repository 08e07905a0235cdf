"""Anybody's task: a Gymnasium environment as agents want it, from its name or as an object.

Agents act with numbers in [-1, 1] and observe float32 vectors and 64x64 images.
"""

from collections.abc import Collection, Mapping
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Space
from jaxtyping import Float

from lsp.envs.lookup import Env, Task, _make, _said, _short, task_name
from lsp.envs.observed import Part, leaves, part_of
from lsp.envs.rewards import LARGEST_REWARD
from lsp.errors import UserError, exit_is_an_error, warn

MAX_OPEN_STEPS = 10_000  # control steps of an episode that nothing is known to limit
SUCCESS = ("success", "is_success")  # as Meta-World and Gymnasium-Robotics call it
_UNLIMITED = 1e10  # an action's bound from here on is none


def make_user_env(
    task: Task, obs: str = "proprio", images: Collection[str] | None = None
) -> "UserEnv":
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
    return UserEnv(_make(task, name), name, images)


class UserEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A user's environment with the spaces that agents know.

    Actions are float32 [A] in [-1, 1]; they are clipped, mapped affinely to the bounds of the
    environment's Box, rounded where it holds integers, and get its shape and dtype. Observations
    are a dict, nested keys joined with "/", a lone Box as ``image`` or ``observation``: uint8
    images [64, 64, C], everything else as float32 vectors [n]. Which are images is decided by
    their spaces (``lsp.envs.observed``), or by ``images``, their keys.

    ``info["success"]``, or ``"is_success"``, is a bool where the environment tells it. So is
    ``info["sim_state"]`` a float64 [S], where it is one row of numbers: what the replay keeps to
    pay old episodes for another task, if an environment has ``reward_at(states, actions)``.

    Raises:
      UserError: the actions are no bounded Box, or the observations no Box or Dict of Boxes; later,
        if what a reset or a step gives does not fit, or is not finite.
    """

    def __init__(self, env: Env, task: str, images: Collection[str] | None = None):
        super().__init__(env)
        self.task = task
        actions = _action_box(env, task)
        self._low, self._high = (np.asarray(x, np.float64) for x in (actions.low, actions.high))
        self._dtype = actions.dtype
        self._parts = _parts(env, task, images)
        self._limited = _has_time_limit(env)
        self._steps = 0
        self._state_size: int | None = None  # of the episode's simulator states
        self._rendered: tuple[int, ...] | None = None  # the shape of its pictures
        self.action_space = Box(-1.0, 1.0, (self._low.size,), np.float32)
        # Given as pairs: Gymnasium sorts a plain dict's keys.
        self.observation_space = Dict([(key, part.seen()) for key, part in self._parts.items()])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode; ``seed`` and ``options`` are the environment's."""
        self._steps = 0
        with exit_is_an_error():
            given: Any = self.env.reset(seed=seed, options=options)
        if not isinstance(given, tuple) or len(given) != 2:
            raise UserError(
                f"{self.task}: reset must return an observation and a dict (info), as Gymnasium's "
                f"do, not {_short(given)}."
            )
        observation, info = given
        told_ = told(info, self.task)
        state = told_.get("sim_state")
        self._state_size = None if state is None else state.size
        return self._observe(observation), told_

    def step(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Takes one control step.

        Raises:
          UserError: the action has the wrong shape or holds a NaN; an observation or the reward is
            not finite; or the episode goes on without end.
        """
        with exit_is_an_error():
            given: Any = self.env.step(self._to_control(action))
        self._steps += 1
        if not isinstance(given, tuple) or len(given) != 5:
            values = f"{len(given)} values" if isinstance(given, tuple) else _short(given)
            raise UserError(
                f"{self.task}: step must return five values (observation, reward, terminated, "
                f"truncated, info), as Gymnasium's do, not {values}."
            )
        observation, paid, *ends, info = given
        reward = self._reward(paid)
        terminated, truncated = (
            truth(end, f"{self.task}: {name}")
            for end, name in zip(ends, ("terminated", "truncated"))
        )
        if self._steps >= MAX_OPEN_STEPS and not (terminated or truncated or self._limited):
            raise UserError(
                f"{self.task}: an episode has not ended after {self._steps} steps: wrap the "
                "environment in gymnasium.wrappers.TimeLimit."
            )
        return self._observe(observation), reward, terminated, truncated, self._told(info)

    def _told(self, info: Any) -> dict[str, Any]:
        """What a step tells, with a simulator's state if the reset gave one."""
        kept = told(info, self.task)
        state = kept.pop("sim_state", None)
        if self._state_size is None:
            return kept
        if state is None or state.size != self._state_size:
            found = "none" if state is None else f"{state.size} numbers"
            raise UserError(
                f"{self.task}: info['sim_state'] is {found} at step {self._steps} of an episode, "
                f"and was {self._state_size} numbers at its reset."
            )
        return kept | {"sim_state": state}

    def _reward(self, paid: Any) -> float:
        if np.ndim(paid) or not isinstance(paid, SupportsFloat) or isinstance(paid, str):
            raise UserError(
                f"{self.task}: a reward must be one number, not {_short(repr(paid))}, at step "
                f"{self._steps} of an episode."
            )
        reward = float(paid)
        if not abs(reward) < LARGEST_REWARD:  # NaN neither
            raise UserError(
                f"{self.task}: the reward is {reward} at step {self._steps} of an episode: fix "
                "the environment."
            )
        return reward

    def render(self) -> np.ndarray:
        """The present state as a picture.

        Raises:
          UserError: the environment was not made with ``render_mode="rgb_array"``, fails, or gives
            something else than uint8 [height, width, 3], always of one size.
        """
        if self.render_mode != "rgb_array":
            raise UserError(
                f"{self.task}: no pictures, as its render_mode is {self.render_mode!r}: make it "
                "with render_mode='rgb_array' where it offers that."
            )
        try:
            with exit_is_an_error():
                given: Any = self.env.render()
        except Exception as error:
            raise UserError(f"{self.task}: cannot render: {_said(error)}") from error
        return self._picture(given)

    def _picture(self, given: Any) -> np.ndarray:
        if not isinstance(given, np.ndarray) or given.ndim != 3 or given.shape[2] != 3:
            found = list(given.shape) if isinstance(given, np.ndarray) else _short(repr(given))
            raise UserError(
                f"{self.task}: render must give an array [height, width, 3], not {found}."
            )
        if given.dtype != np.uint8:
            raise UserError(f"{self.task}: render must give uint8, 0 to 255, not {given.dtype}.")
        if self._rendered not in (None, given.shape):
            raise UserError(
                f"{self.task}: render gives {list(given.shape)} now, and gave "
                f"{list(self._rendered or ())} before: all pictures must have one size."
            )
        self._rendered = given.shape
        return given

    def _to_control(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float64)
        if action.shape != (self._low.size,) or np.isnan(action).any():
            raise UserError(
                f"{self.task}: an action must be {self._low.size} numbers without NaN, "
                f"got shape {action.shape}: {_short(action)}"
            )
        return np.asarray(self.controls(action[None])[0])

    def controls(self, actions: Float[np.ndarray, "time action"]) -> np.ndarray:
        """Actions in [-1, 1] as the environment takes them, `[time, ...]`."""
        actions = np.clip(np.asarray(actions, np.float64), -1.0, 1.0)
        actions = actions.reshape(-1, *self._low.shape)
        # Written so that -1 and 1 give the limits exactly.
        control = 0.5 * (1 - actions) * self._low + 0.5 * (1 + actions) * self._high
        if not np.issubdtype(self._dtype, np.floating):
            control = np.rint(control)
        return np.asarray(control, self._dtype)

    def _observe(self, observation: Any) -> dict[str, np.ndarray]:
        return {key: self._read(key, part, observation) for key, part in self._parts.items()}

    def _read(self, key: str, part: Part, observation: Any) -> np.ndarray:
        value = observation
        for step in part.path:
            if not isinstance(value, Mapping) or step not in value:
                raise UserError(
                    f"{self.task}: an observation lacks '{key}', which its observation space has."
                )
            value = value[step]
        value, space = np.asarray(value), part.space
        wrong_kind = value.dtype.kind not in "fiub"
        if part.sides is not None and space.dtype == np.uint8:
            wrong_kind = value.dtype != np.uint8
        if value.shape != space.shape or wrong_kind:
            raise UserError(
                f"{self.task}: observation '{key}' is {value.dtype} of shape {value.shape}, not "
                f"{space.dtype} of shape {space.shape} as its observation space says."
            )
        seen = part.vector(value)
        if not np.isfinite(seen).all():
            raise UserError(
                f"{self.task}: observation '{key}' is not finite at step {self._steps} of an "
                f"episode: {_short(value)}: fix the environment, or leave that key out."
            )
        return seen if part.sides is None else part.image(value)


def told(info: Any, task: str) -> dict[str, Any]:
    """What an environment tells, with its success as a bool, and a simulator's state if it is one
    row of numbers.

    Raises UserError where it is no dict, or the success no single truth value.
    """
    if not isinstance(info, Mapping):
        raise UserError(f"{task}: info must be a dict, not {_short(repr(info))}.")
    kept = dict(info)
    if "sim_state" in kept and (state := _state(kept.pop("sim_state"))) is not None:
        kept["sim_state"] = state
    name = next((key for key in SUCCESS if kept.get(key) is not None), None)
    kept.pop("success", None)
    if name is not None:
        kept["success"] = truth(info[name], f"{task}: info['{name}']")
    return kept


def _state(value: Any) -> np.ndarray | None:
    """A simulator's state, copied; None where it is no row of numbers."""
    try:
        state = np.array(value)
    except ValueError:  # rows of different lengths
        return None
    fits = state.ndim == 1 and state.size > 0 and state.dtype.kind in "fiub"
    return state.astype(np.float64) if fits else None


def truth(value: Any, what: str) -> bool:
    """A single truth value: a bool, or 0 or 1. Raises UserError for anything else."""
    if np.size(value) == 1 and np.asarray(value).dtype.kind in "biuf":
        number = np.asarray(value).reshape(()).item()
        if number in (0, 1):
            return bool(number)
    raise UserError(f"{what} must be true or false, not {_short(repr(value))}.")


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


def _parts(env: Env, task: str, images: Collection[str] | None) -> dict[str, Part]:
    """What is observed, by the agent's key; empty Boxes are left out."""
    parts: dict[str, Part] = {}
    for path, space in leaves(getattr(env, "observation_space", None)):
        if not isinstance(space, Box) or space.dtype is None:
            raise _refusal(env, task, "its observations must be a Box or a Dict of Boxes")
        part = part_of(path, space, images)
        if part.key in parts:
            raise _refusal(env, task, f"two of its observations are called '{part.key}'")
        if np.prod(space.shape) > 0:
            parts[part.key] = part
    if not parts:
        raise _refusal(env, task, "it observes nothing")
    _check_images(parts, task, images or ())
    return parts


def _check_images(parts: dict[str, Part], task: str, images: Collection[str]) -> None:
    shown = {key for key, part in parts.items() if part.sides is not None}
    for key in images:
        there = key in shown or (not parts[next(iter(parts))].path and bool(shown))
        if not there:
            raise UserError(
                f"{task}: images names '{key}', which is no observation with the shape of a "
                f"picture: there are {', '.join(sorted(parts))}."
            )
    for key in shown:
        space = parts[key].space
        if space.dtype != np.uint8 and not (np.isfinite(space.high).all() and space.high.max() > 0):
            raise UserError(
                f"{task}: observation '{key}' is to be an image, and its space does not say how "
                "bright it may become: give the Box its bounds, such as 0 and 1."
            )
    for key, part in parts.items():
        if part.doubtful:
            warn(
                f"{task}: observation '{key}' of shape {part.space.shape} looks like a picture and "
                f"is seen as a vector of {np.prod(part.space.shape)} numbers: --images "
                f"{key} makes it an image, --images '' says that it is none."
            )


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
