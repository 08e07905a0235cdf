"""Old episodes, paid for another task (section 4.3)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from lsp.envs.action_repeat import ActionRepeat
from lsp.envs.custom import UserEnv
from lsp.envs.rewards import LARGEST_REWARD, PaidByObservations
from lsp.errors import UserError, exit_is_an_error, said
from lsp.rows import observations
from lsp.training.episode_files import Episode

_SAME_REWARD = (ActionRepeat, UserEnv, TimeLimit, OrderEnforcing, PassiveEnvChecker)
"""Wrappers that pay what is inside them, for the states that it has."""


Rewards = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(states `[time, S]`, actions `[time, A]`) → rewards `[time]`."""
Relabel = Callable[[Episode], np.ndarray]
"""A stored episode → rewards `[time]`, of which the first is 0."""


def reads_states(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether what `env` pays is known from simulator states, and not from what agents observe."""
    return not isinstance(env, PaidByObservations)


def rewards_of(env: gymnasium.Env[Any, Any], task: str) -> Relabel:
    """What `env` pays for stored episodes: what it observed, or its simulator's states.

    Raises UserError for a task that says what it pays by neither, and for one in a wrapper that may
    pay something else.
    """
    return by_states(rewards_of_states(env, task)) if reads_states(env) else by_observations(env)


def rewards_of_states(env: gymnasium.Env[Any, Any], task: str) -> Rewards:
    """The `reward_at` of the environment that decides about rewards. Raises as `rewards_of`."""
    controls: Callable[[np.ndarray], np.ndarray] = np.asarray
    while isinstance(env, _SAME_REWARD) and not hasattr(env, "reward_at"):
        controls = env.controls if isinstance(env, UserEnv) else controls
        env = env.env
    reward_at = getattr(env, "reward_at", None)
    if not callable(reward_at):
        raise UserError(
            f"{task}: relabelling needs a reward of (observations, actions) or an environment with "
            f"reward_at(states, actions) and info['sim_state']: {type(env).__name__} has none"
        )

    def rewards(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.asarray(reward_at(states, controls(actions)))

    return rewards


def by_observations(env: gymnasium.Env[Any, Any]) -> Relabel:
    """A reward of observations, for what each row of an episode shows."""
    assert isinstance(env, PaidByObservations)

    def pay(episode: Episode) -> np.ndarray:
        later = {key: x[1:] for key, x in observations(episode).items()}
        paid = env.paid(later, episode["action"][1:], episode["env_steps"][1:])
        return np.append(0.0, paid)

    return pay


def by_states(rewards: Rewards) -> Relabel:
    """The rewards of each control step, summed over those that an action was held for.

    Nothing led to row 0; where an episode ended within a held action, the last state fills the
    rest.
    """

    def pay(episode: Episode) -> np.ndarray:
        states, taken = episode["sim_state"], episode["env_steps"]
        count, repeat, _ = states.shape
        held = np.arange(repeat) < taken[:, None]
        actions = np.repeat(episode["action"][:, None], repeat, axis=1)
        paid = np.zeros((count, repeat))
        paid[held] = rewards(states[held], actions[held])
        return np.asarray(paid.sum(1))

    return pay


def relabelled(episode: Episode, rewards: Relabel, source: Path) -> Episode:
    """The episode with the rewards of another task.

    Raises UserError if it lacks what they read, holds other states than they need, or they fail.
    """
    try:
        with exit_is_an_error():
            paid = rewards(episode)
    except KeyError as error:
        if "sim_state" in episode:
            raise _failed(source, error) from error
        raise UserError(f"{source}: its episodes hold no simulator states to relabel") from error
    except (ValueError, IndexError) as error:
        size = episode["sim_state"].shape[-1] if "sim_state" in episode else 0
        raise UserError(
            f"{source}: its simulator states of {size} numbers are not this task's ({error})"
        ) from error
    except UserError:
        raise
    except Exception as error:  # anything may go wrong in a user's reward_at
        raise _failed(source, error) from error
    if not (np.abs(paid) < LARGEST_REWARD).all():  # NaN neither
        raise UserError(
            f"{source}: its episodes cannot be relabelled: the new task pays for some of "
            f"their rows what is not finite, or {LARGEST_REWARD:g} and more"
        )
    return episode | {"reward": paid.astype(np.float32)}


def _failed(source: Path, error: Exception) -> UserError:
    return UserError(f"{source}: its episodes cannot be relabelled ({said(error)})")
