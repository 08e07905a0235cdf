"""Old episodes, paid for another task (section 4.3)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from lsp.envs.action_repeat import ActionRepeat
from lsp.envs.custom import UserEnv
from lsp.envs.dmc import DMControlEnv
from lsp.errors import UserError
from lsp.training.episode_files import Episode

_SAME_REWARD = (ActionRepeat, UserEnv, TimeLimit, OrderEnforcing, PassiveEnvChecker)
"""Wrappers that pay what is inside them, for the states that it has."""


Rewards = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(states `[time, S]`, actions `[time, A]`) → rewards `[time]`."""


def paying_env(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The innermost environment that decides about rewards."""
    while isinstance(env, _SAME_REWARD):
        env = env.env
    return env


def reward_function(env: gymnasium.Env[Any, Any], task: str) -> Rewards:
    """What `env` pays for stored states. Raises UserError for a task whose states are unknown, or
    in a wrapper that may pay something else for them."""
    inner = paying_env(env)
    if not isinstance(inner, DMControlEnv):
        raise UserError(
            f"{task}: relabelling needs a dm_control task or one of ours, and not in a wrapper of "
            f"your own: this is {type(inner).__name__}"
        )
    return inner.reward_at


def relabelled(episode: Episode, rewards: Rewards, source: Path) -> Episode:
    """The episode with the rewards of another task: of each control step, summed over those that
    an action was held for.

    Raises UserError if the episode holds no simulator states, or others than the task needs.
    """
    if "sim_state" not in episode:
        raise UserError(f"{source}: its episodes hold no simulator states to relabel")
    states, taken = episode["sim_state"], episode["env_steps"]
    count, repeat, size = states.shape
    # Nothing led to row 0; where an episode ended within a held action, the last state fills the
    # rest.
    held = np.arange(repeat) < taken[:, None]
    actions = np.repeat(episode["action"][:, None], repeat, axis=1)
    paid = np.zeros((count, repeat))
    try:
        paid[held] = rewards(states[held], actions[held])
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{source}: its simulator states of {size} numbers are not this task's ({error})"
        ) from error
    return episode | {"reward": paid.sum(1).astype(np.float32)}
