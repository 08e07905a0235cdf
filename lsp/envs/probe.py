"""What a user's environment does, tried before anything is trained or written.

A few steps find what would otherwise end a run later: a step that gives what no step may, an
environment of which there can be only one, and one that shows something else in a second episode
of the same seed.
"""

import time
from collections import Counter
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
    """Warn where one seed gives two different episodes; see `memory_problem`."""
    problem = memory_problem(make_env, other, env)
    if problem is not None:
        warn(f"{task}: {problem}")


def memory_problem(make_env: Callable[[], Env], other: Env | None, env: Env) -> str | None:
    """What is wrong where one seed gives two different episodes, and what to do.

    `other` is a new environment; None where there is only `env`, which has been tried already.
    """
    tried = env if other is None else other
    first, again = _episode(tried), _episode(tried)
    if first is None or again is None:  # it fails now and then, which a run survives
        return None
    later = first.difference(again)
    if later is None:
        return None
    what = f"two episodes of one seed are not the same ({later})"
    keeps = "leave out wrappers that keep statistics, such as NormalizeObservation"
    if other is None:
        return f"{what}: it ignores the seed of reset, or remembers earlier episodes; {keeps}"
    if _alike(first, make_env):
        return (
            f"{what}: it remembers earlier episodes, so that evaluation, in environments of its "
            f"own, sees other numbers than training: {keeps} (readings are scaled by symlog "
            "already), and let curricula depend on the seed"
        )
    return (
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


class Rolled(NamedTuple):
    """What some episodes of random actions came to.

    Attributes:
        env_steps: control steps that were taken.
        seconds: that they took, resets included.
        rewards: the lowest and the highest of an agent step.
        returns: of whole episodes.
        terminated: episodes that ended themselves.
        truncated: episodes that a time limit ended.
        success: whether any step told of it, be it true or false.
    """

    env_steps: int
    seconds: float
    rewards: tuple[float, float]
    returns: list[float]
    terminated: int
    truncated: int
    success: bool


def roll(env: Env, task: str, env_steps: int, seconds: float) -> Rolled:
    """Episodes of random actions, until so many env steps or seconds are over.

    Raises:
        UserError: a step fails, or gives something that agents cannot learn from.
    """
    rng, began = np.random.default_rng(SEED), time.monotonic()
    assert env.action_space.shape is not None
    taken, total, success, rewards, returns = 0, 0.0, False, [], []
    ends = Counter[str]()
    running = False
    while taken < env_steps and time.monotonic() - began < seconds:
        try:
            if not running:
                _, info = env.reset(seed=SEED + sum(ends.values()))
                running, total, success = True, 0.0, success or "success" in info
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            _, reward, terminated, truncated, info = env.step(action)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{task}: it failed after {taken} env steps ({said(error)})") from error
        taken, total = taken + int(info["env_steps"]), total + float(reward)
        rewards.append(float(reward))
        success = success or "success" in info
        if terminated or truncated:
            ends["terminated" if terminated else "truncated"] += 1
            returns.append(total)
            running = False
    span = (min(rewards), max(rewards))
    spent = time.monotonic() - began
    return Rolled(taken, spent, span, returns, ends["terminated"], ends["truncated"], success)


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
