"""Evaluation: plan mean, policy mode, no noise; up to 100 episodes side by side in one batch."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np

from lsp.config import RuntimeConfig
from lsp.envs.vector import Failure, InProcess, Step
from lsp.errors import UserError
from lsp.training.build import AnyNetworks, build_agent
from lsp.training.skill_controls import Act, Now, SkillChoice, SkillRecorder, check_shuffled

MOST_AT_ONCE = 100  # each has a simulator of its own, of 10 MiB and more


class Evaluation(NamedTuple):
    """Outcome of each episode.

    Attributes:
        returns: sums of rewards, `[episodes]`.
        lengths: env steps, `[episodes]`.
        success: 1 where a goal was reached, else 0, `[episodes]`; None for tasks without one.
    """

    returns: np.ndarray
    lengths: np.ndarray
    success: np.ndarray | None

    def metrics(self) -> dict[str, Any]:
        """What an `eval` line of metrics.jsonl holds."""
        return {
            "eval/return": float(self.returns.mean()),
            "eval/std": float(self.returns.std()),
            "eval/success": None if self.success is None else float(self.success.mean()),
            "eval/episodes": len(self.returns),
            "eval/returns": [float(x) for x in self.returns],
            "eval/length": float(self.lengths.mean()),
        }


def episode_seeds(count: int) -> list[int]:
    """The same for every method and seed, so that all are asked the same questions."""
    return [int(x) for x in np.random.SeedSequence(2021).generate_state(count) >> 1]


def evaluate(
    networks: AnyNetworks,
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    episodes: int,
    seed: int = 0,
    runtime: RuntimeConfig | None = None,
    on_frame: Callable[[np.ndarray], None] | None = None,
    on_step: Callable[[], None] = lambda: None,
    skills: SkillChoice | None = None,
) -> Evaluation:
    """Run `episodes` episodes with agents of their own, which `seed` seeds and `runtime` speeds up.

    `skills` are chosen so, whatever the settings say. `constant` and `shuffled` evaluate with
    planned skills first, in the same episodes, and then hold theirs (`PlannedSkills`).

    `on_frame` is given a picture of the first episode at every agent step. `on_step` is
    called there too, and may raise to end the evaluation.

    Raises UserError where an environment fails, or one episode is to be shuffled.
    """
    asked = partial(_evaluate, networks, make_env, episodes, seed, runtime, on_step)
    if skills != "constant" and skills != "shuffled":
        return asked(skills, lambda agent, seen, now: agent.act(seen), on_frame)
    check_shuffled(skills, episodes)
    recorder = SkillRecorder()
    asked("planned", recorder.act, None)
    return asked("planned", recorder.planned().holding(skills), on_frame)


def _evaluate(
    networks: AnyNetworks,
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    episodes: int,
    seed: int,
    runtime: RuntimeConfig | None,
    on_step: Callable[[], None],
    skills: Literal["planned", "prior"] | None,
    act: Act,
    on_frame: Callable[[np.ndarray], None] | None,
) -> Evaluation:
    """As many episodes at once as MOST_AT_ONCE."""
    seeds, parts = episode_seeds(episodes), []
    for first in range(0, episodes, MOST_AT_ONCE):
        part = slice(first, min(first + MOST_AT_ONCE, episodes))
        envs = [make_env() for _ in seeds[part]]
        try:
            agent = build_agent(networks, "evaluate", len(envs), seed, runtime, skills)
            film = on_frame if first == 0 else None
            parts.append(_run(partial(act, agent), envs, seeds, part, film, on_step))
        finally:
            for env in envs:
                env.close()
    returns, lengths = (np.concatenate([part[i] for part in parts]) for i in range(2))
    success = [part.success for part in parts if part.success is not None]
    known = len(success) == len(parts)
    return Evaluation(returns, lengths, np.concatenate(success) if known else None)


def _run(
    act: Callable[[dict[str, np.ndarray], Now], np.ndarray],
    envs: list[gymnasium.Env[Any, Any]],
    seeds: list[int],
    part: slice,
    on_frame: Callable[[np.ndarray], None] | None,
    on_step: Callable[[], None],
) -> Evaluation:
    count = len(envs)
    alone = [InProcess(env) for env in envs]
    begun = [_given(env.reset({0: s})[0]) for env, s in zip(alone, seeds[part], strict=True)]
    observations = [step.observation for step in begun]
    returns, lengths, running = np.zeros(count), np.zeros(count, int), np.ones(count, bool)
    success: list[bool | None] = [None] * count
    for step_number in itertools.count():
        if not running.any():
            break
        on_step()
        if on_frame is not None and running[0]:
            on_frame(np.asarray(envs[0].render()))
        batch = {key: np.stack([o[key] for o in observations]) for key in observations[0]}
        actions = act(batch, Now(step_number, part, running))
        for i in np.flatnonzero(running):
            step = _given(alone[i].step(actions[i][None])[0])
            observations[i] = step.observation
            returns[i] += step.reward
            lengths[i] += step.info["env_steps"]
            if "success" in step.info:
                success[i] = bool(success[i]) or bool(step.info["success"])
            running[i] = not (step.terminated or step.truncated)
    reached = None if None in success else np.array(success, float)
    return Evaluation(returns, lengths, reached)


def _given(outcome: Step | Failure) -> Step:
    if isinstance(outcome, Failure):
        raise UserError(
            f"an environment failed in evaluation ({outcome.reason})"
        ) from outcome.cause
    return outcome
