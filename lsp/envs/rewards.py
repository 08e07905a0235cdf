"""Rewards of a user's own, which pay instead of the task.

A function of (observations, actions) or of (simulator states, actions): the name of its first
parameter, `observations` or `states`, says which.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import gymnasium
import numpy as np
from jaxtyping import Float, Float64

from lsp.envs.lookup import _said, _short, find_function
from lsp.errors import UserError, exit_is_an_error

RewardFunction: TypeAlias = Callable[[Any, np.ndarray], Any]
"""``reward(observations, actions)`` or ``reward(states, actions)``; see `OwnReward`."""

LARGEST_REWARD = 1e15  # sums of squares of smaller ones are still float32
_ROWS = 3  # of the first observations, paid together and one by one


class OwnReward:
    """A reward that pays instead of a task's, with all that may go wrong in it checked.

    ``reward(observations, actions)`` is given a dict with an array [time, ...] for each key that
    the agent observes, vectors as float64 and images as bytes, and the actions [time, A] in [-1, 1]
    that led there. ``reward(states, actions)`` is given the simulator's states [time, S] in place
    of the observations. Both return [time] rewards of one control step, each row by itself, and are
    given copies.

    Attributes:
        function: what pays.
        name: what a run calls it: ``package.module:function``, or ``python:module.function``.
        reads: which of the two it is.
    """

    def __init__(self, function: RewardFunction, name: str | None = None):
        if not callable(function):
            raise UserError(f"a reward must be a function, not {_short(repr(function))}")
        self.function, self.name = function, name or _name(function)
        self.reads = _first_parameter(function, self.name)

    def __call__(
        self,
        seen: Mapping[str, np.ndarray] | Float[np.ndarray, "time state"],
        actions: Float[np.ndarray, "time action"],
    ) -> Float64[np.ndarray, " time"]:
        """What it pays for each row of `seen`, observations or states, and of `actions`.

        Raises:
            UserError: it fails, or returns anything but a finite number for each row.
        """
        # Copies: what it does to them must not reach the replay, or the robot.
        copies: Any
        if isinstance(seen, Mapping):
            copies = {key: _precise(x) for key, x in seen.items()}
        else:
            copies = seen.copy()
        try:
            with exit_is_an_error():
                rewards = np.asarray(self.function(copies, np.array(actions)))
        except Exception as error:  # anything may go wrong in a user's code
            raise UserError(f"reward '{self.name}' failed: {_said(error)}") from error
        fits = rewards.dtype.kind in "fiub" and rewards.shape == (len(actions),)
        if not fits or not (np.abs(rewards.astype(np.float64)) < LARGEST_REWARD).all():
            raise UserError(
                f"reward '{self.name}' must return one finite number, smaller than "
                f"{LARGEST_REWARD:g}, for each of {len(actions)} {self.reads}, not {rewards.dtype} "
                f"of shape {rewards.shape}: {_short(rewards.ravel()[:3])}"
            )
        return rewards.astype(np.float64)


def own_reward(reward: "str | RewardFunction | OwnReward") -> OwnReward:
    """A user's reward from its name, ``package.module:function``, or from the function itself.

    Raises:
        UserError: there is no such function, or it does not say what it reads.
    """
    if isinstance(reward, OwnReward):
        return reward
    if not isinstance(reward, str):
        return OwnReward(reward)
    if reward.startswith("python:"):
        raise UserError(
            f"{reward}: this reward was passed from Python: pass it again, as reward=function."
        )
    wanted = "a function of (observations, actions) or (states, actions)"
    return OwnReward(find_function(reward, f"reward '{reward}'", wanted), reward)


class PaidByStates(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays a user's environment by ``info["sim_state"]`` after each control step."""

    def __init__(self, env: gymnasium.Env[Any, Any], reward: OwnReward):
        super().__init__(env)
        self.own_reward = reward

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one control step. Raises UserError where the reward does, or lacks the state."""
        observation, _, terminated, truncated, info = self.env.step(action)
        if "sim_state" not in info:
            raise UserError(
                f"reward '{self.own_reward.name}' reads simulator states, and this task tells "
                "none in info['sim_state']: call its first parameter `observations`, read those"
            )
        paid = self.own_reward(info["sim_state"][None], np.asarray(action)[None])
        return observation, float(paid[0]), terminated, truncated, info

    def reward_at(
        self, sim_state: Float[np.ndarray, "time state"], action: Float[np.ndarray, "time action"]
    ) -> Float64[np.ndarray, " time"]:
        """What it pays for states after control steps and the actions that led there."""
        return self.own_reward(sim_state, action)


class PaidByObservations(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays for what the agent observes after an action, once for each control step of it."""

    def __init__(self, env: gymnasium.Env[Any, Any], reward: OwnReward):
        super().__init__(env)
        self.own_reward = reward

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one decision's steps. Raises UserError where the reward does."""
        observation, _, terminated, truncated, info = self.env.step(action)
        rows = {key: np.asarray(x)[None] for key, x in observation.items()}
        steps = np.array([info["env_steps"]])
        paid = self.paid(rows, np.asarray(action)[None], steps)
        return observation, float(paid[0]), terminated, truncated, info

    def paid(
        self,
        observations: Mapping[str, np.ndarray],
        actions: Float[np.ndarray, "time action"],
        env_steps: np.ndarray,
    ) -> Float64[np.ndarray, " time"]:
        """For observations [time, ...], after actions that were held for `env_steps` each."""
        return np.asarray(self.own_reward(observations, actions) * env_steps)


def own_reward_of(env: gymnasium.Env[Any, Any]) -> OwnReward | None:
    """What pays in an environment of `make_env`, if it is not the task."""
    while not hasattr(env, "own_reward"):
        if not isinstance(env, gymnasium.Wrapper):
            return None
        env = env.env
    own: OwnReward | None = env.own_reward
    return own


def try_reward(env: gymnasium.Env[Any, Any], seed: int) -> None:
    """Let a reward of the user's own pay for a few steps, together and one by one.

    Raises UserError where the reward does, and where its rows do not stand by themselves.
    """
    reward = own_reward_of(env)
    if reward is None:
        return
    rng, rows, actions = np.random.default_rng(seed), list[Any](), list[np.ndarray]()
    assert env.action_space.shape is not None
    env.reset(seed=seed)
    for _ in range(_ROWS):
        actions.append(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        observation, _, terminated, truncated, info = env.step(actions[-1])
        rows.append(observation if reward.reads == "observations" else info["sim_state"][-1])
        if terminated or truncated:
            break
    _check_rows(reward, rows, np.stack(actions))


def _check_rows(reward: OwnReward, rows: list[Any], actions: np.ndarray) -> None:
    together = reward(_stacked(rows), actions)
    for i, row in enumerate(rows):
        alone = reward(_stacked([row]), actions[i : i + 1])
        if not np.isclose(alone[0], together[i], rtol=1e-6, atol=1e-9):
            raise UserError(
                f"reward '{reward.name}' must pay each row by itself: row {i} of {len(rows)} "
                f"earns {together[i]:.6g} among the others and {alone[0]:.6g} alone"
            )


def _stacked(rows: list[Any]) -> Any:
    if isinstance(rows[0], Mapping):
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return np.stack(rows)


def _precise(array: np.ndarray) -> np.ndarray:
    """A copy; vectors as float64, so that one row and a thousand are paid alike when rounded."""
    return np.array(array, array.dtype if array.dtype == np.uint8 else np.float64)


def _name(function: RewardFunction) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"python:{named.__module__}.{named.__qualname__}"


def _first_parameter(function: RewardFunction, name: str) -> Literal["observations", "states"]:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    first = names[0] if names else ""
    if first.startswith("obs"):
        return "observations"
    if first.startswith(("state", "sim_state")):
        return "states"
    raise UserError(
        f"reward '{name}': its first parameter must be called `observations` or `states`, which "
        f"says what it reads, not '{first}'"
    )
