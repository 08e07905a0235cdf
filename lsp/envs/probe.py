"""What a user's environment does, tried before anything is trained or written.

A few steps find what would otherwise end a run later: a step that gives what no step may, an
environment of which there can be only one, and one that shows something else in a second episode
of the same seed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from lsp.envs.custom import UserEnv
from lsp.envs.lookup import _said
from lsp.errors import UserError, said, warn

Env = gymnasium.Env[Any, Any]

SEED = 0
STEPS = 5  # agent steps of a tried episode
TOLERANCE = 1e-4  # relative, of readings that are called the same


class Shown(NamedTuple):
    """What a tried episode showed, step by step: readings by key, the reward among them."""

    readings: list[dict[str, np.ndarray]]

    def difference(self, other: "Shown") -> str | None:
        """The first reading in which two episodes differ, and by how much."""
        for step, (mine, others) in enumerate(zip(self.readings, other.readings)):
            for key, value in mine.items():
                if not np.allclose(value, others[key], rtol=TOLERANCE, atol=1e-6):
                    far = np.max(np.abs(np.subtract(value, others[key], dtype=np.float64)))
                    return f"{key} differs by {far:.3g} after {step} steps"
        return None


def is_users(env: Env) -> bool:
    """Whether it is a user's own; this package's tasks need no trial."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, UserEnv):
            return True
        env = env.env
    return False


def try_first_step(env: Env, task: str, seed: int) -> None:
    """Reset and take one step in the middle of all actions.

    Raises:
        UserError: it fails, or gives something that agents cannot learn from.
    """
    env.reset(seed=seed)
    try:
        env.step(_still(env))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{task}: its first step failed ({said(error)})") from error


def second_environment(make_env: Callable[[], Env]) -> tuple[Env | None, str]:
    """Another one beside the first, for evaluation; None, and why, where there is only one."""
    try:
        return make_env(), ""
    except Exception as error:
        return None, str(error) if isinstance(error, UserError) else _said(error)


def warn_of_memory(make_env: Callable[[], Env], other: Env | None, env: Env, task: str) -> None:
    """Warn where one seed gives two different episodes.

    `other` is a new environment; None where there is only `env`, which has been tried already.
    """
    tried = env if other is None else other
    first, again = _episode(tried), _episode(tried)
    if first is None or again is None:  # it fails now and then, which a run survives
        return
    later = first.difference(again)
    if later is None:
        return
    what = f"{task}: two episodes of one seed are not the same ({later})"
    keeps = "leave out wrappers that keep statistics, such as NormalizeObservation"
    if other is None:
        warn(f"{what}: it ignores the seed of reset, or remembers earlier episodes; {keeps}")
    elif _alike(first, make_env):
        warn(
            f"{what}: it remembers earlier episodes, so that evaluation, in environments of its "
            f"own, sees other numbers than training: {keeps} (readings are scaled by symlog "
            "already), and let curricula depend on the seed"
        )
    else:
        warn(
            f"{what}: it ignores the seed of reset, so that runs cannot be repeated: draw all "
            "random numbers from self.np_random, after super().reset(seed=seed)"
        )


def _alike(first: Shown, make_env: Callable[[], Env]) -> bool:
    """Whether the first episode of one more environment is that of another."""
    third, _ = second_environment(make_env)
    if third is None:
        return False
    shown = _episode(third)
    third.close()
    return shown is not None and first.difference(shown) is None


def _episode(env: Env) -> Shown | None:
    """A few steps, of the same seed and with the same actions every time; None where it fails."""
    rng = np.random.default_rng(0)
    assert env.action_space.shape is not None
    try:
        observation, _ = env.reset(seed=SEED)
        shown = [dict(observation)]
        for _ in range(STEPS):
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            observation, reward, terminated, truncated, _ = env.step(action)
            shown.append({**observation, "the reward": np.asarray(reward)})
            if terminated or truncated:
                break
    except UserError:
        raise
    except Exception:
        return None
    return Shown(shown)


def _still(env: Env) -> np.ndarray:
    assert env.action_space.shape is not None
    return np.zeros(env.action_space.shape, np.float32)
