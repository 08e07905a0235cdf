"""Rollouts of skills that are held, all from the same start and without exploration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from lsp.algorithm.agent import Agent
from lsp.envs.quadruped import Measurements
from lsp.envs.several import Env, close, several
from lsp.errors import UserError
from lsp.models.networks import Networks
from lsp.training.build import AnyNetworks

REACH = 1.5  # the outer skills' distance from 0 along two axes, in standard deviations of the prior
SEED = 7
MOST = 400  # rollouts at once: each has a simulator of its own


@dataclass(frozen=True)
class Held:
    """What each skill did, several times, with other noise in the filter each time.

    Attributes:
        skills: `[skills, Z]`.
        ends: where each rollout ended, `[skills, repeats, n]`: on the ground in metres where the
            body is one of this package's quadrupeds, else the vectors that are observed, each
            divided by its standard deviation over all rollouts.
        unit: of `ends`: "m" or "std".
        states: simulator states `[skills, repeats, time, S]`, start included; None where the
            environment does not tell them.
        frames: pictures of each skill's first rollout, `[skills, time, height, width, 3]`; None
            where nothing was rendered.
    """

    skills: Float[np.ndarray, "skills Z"]
    ends: Float[np.ndarray, "skills repeats n"]
    unit: str
    states: Float64[np.ndarray, "skills repeats time S"] | None
    frames: np.ndarray | None

    def between_skills(self) -> float:
        """Mean distance between the ends of two skills, each the mean of its repeats."""
        return _mean_distance(self.ends.mean(1))

    def between_repeats(self) -> float:
        """Mean distance between the ends of two rollouts of one skill; NaN of a single one."""
        return float(np.mean([_mean_distance(ends) for ends in self.ends]))


def skill_grid(dim: int, count: int) -> Float[np.ndarray, "count dim"]:
    """Skills on a square grid along the first two axes; along the only one where there is one.

    Raises:
        UserError: `count` is no square number above 1.
    """
    side = round(max(count, 0) ** 0.5)
    if side < 2 or side * side != count:
        raise UserError(f"--grid {count}: the skills form a square, such as 4, 9 or 16")
    skills = np.zeros((count, dim), np.float32)
    line = np.linspace(-REACH, REACH, side)
    if dim == 1:
        skills[:, 0] = np.linspace(-REACH, REACH, count)
    else:
        skills[:, :2] = np.stack(np.meshgrid(line, line[::-1]), -1).reshape(-1, 2)
    return skills


def hold(
    networks: AnyNetworks,
    make_env: Callable[[], Env],
    skills: Float[np.ndarray, "skills Z"],
    steps: int,
    repeats: int = 1,
    film: bool = False,
) -> Held:
    """Hold each skill for `steps` agent steps, `repeats` times; an episode that ends stays there.

    Raises:
        UserError: the method has no skills, or there are too many rollouts.
    """
    config, count = networks.config, len(skills) * repeats
    if not isinstance(networks, Networks) or not config.has_skills:
        raise UserError(f"{config.method} has no skills to hold: name a run of lsp")
    if steps < 1 or repeats < 1 or count > MOST:
        raise UserError(
            f"{len(skills)} skills {repeats} times for {steps} steps: at least one time and step, "
            f"and at most {MOST} rollouts"
        )
    agent = Agent(networks, "evaluate", count, SEED)
    envs = several(make_env, count)
    each = np.repeat(skills, repeats, 0)
    try:
        rollouts = [_Rollout(env, film and i % repeats == 0) for i, env in enumerate(envs)]
        for _ in range(steps):
            keys = rollouts[0].observation
            batch = {key: np.stack([x.observation[key] for x in rollouts]) for key in keys}
            for rollout, action in zip(rollouts, agent.act(batch, each), strict=True):
                rollout.step(action)
    finally:
        close(envs)
    return _held(config.task, skills, repeats, rollouts)


class _Rollout:
    """One environment under one skill, and what is kept of it."""

    def __init__(self, env: Env, film: bool) -> None:
        self.env, self._film, self._ended = env, film, False
        self.observation, info = env.reset(seed=SEED)
        self.states, self.frames = [_last(info)], [self._frame()]

    def step(self, action: np.ndarray) -> None:
        if not self._ended:
            self.observation, _, terminated, truncated, info = self.env.step(action)
            self._ended = terminated or truncated
            self.states.append(_last(info))
            self.frames.append(self._frame())
        else:
            self.states.append(self.states[-1])
            self.frames.append(self.frames[-1])

    def _frame(self) -> np.ndarray | None:
        return np.asarray(self.env.render()) if self._film else None


def _last(info: dict[str, Any]) -> np.ndarray | None:
    """The state after an agent step: that of its last control step."""
    state = info.get("sim_state")
    return state if state is None or state.ndim == 1 else state[info["env_steps"] - 1]


def _held(task: str, skills: np.ndarray, repeats: int, rollouts: list[_Rollout]) -> Held:
    shape = (len(skills), repeats)
    told = all(state is not None for x in rollouts for state in x.states)
    states = np.array([x.states for x in rollouts]) if told else None
    if states is not None:
        states = states.reshape(*shape, *states.shape[1:])
    if states is not None and task.startswith("quadruped"):
        ends, unit = Measurements(states[:, :, -1]).position[..., :2], "m"
    else:
        last = np.stack([_readings(x.observation) for x in rollouts])
        spread = last.std(0)
        scaled = last / np.where(spread > 0, spread, 1)
        ends, unit = scaled.reshape(*shape, -1), "std"
    filmed = [x.frames for x in rollouts[::repeats]]
    frames = np.array(filmed) if filmed[0][0] is not None else None
    return Held(skills, ends, unit, states, frames)


def _readings(observation: dict[str, np.ndarray]) -> np.ndarray:
    """All vectors that are observed, joined; images where there is nothing else."""
    vectors = [x for x in observation.values() if x.ndim == 1] or list(observation.values())
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in vectors])


def _mean_distance(points: Float[np.ndarray, "count n"]) -> float:
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    pairs = distances[np.triu_indices(len(points), 1)]
    return float(pairs.mean()) if pairs.size else float("nan")
