"""Evaluation: plan mean, policy mode, no noise; up to 100 episodes side by side in one batch.

An episode whose environment fails is begun again with another seed, a few times, and then left
out and counted: an evaluation must not end a training.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from lsp.algorithm.agent import Agent
from lsp.config import RuntimeConfig
from lsp.envs.several import Env, close, several
from lsp.envs.vector import Failure, InProcess, Step
from lsp.errors import UserError, warn
from lsp.training.build import AnyNetworks, build_agent
from lsp.training.new_reward import Fit
from lsp.training.skill_controls import Act, Now, SkillChoice, SkillRecorder, check_shuffled

MOST_AT_ONCE = 100  # each has a simulator of its own, of 10 MiB and more
RETRIES = 3  # of an episode whose environment failed


class Evaluation(NamedTuple):
    """Outcome of each episode.

    Attributes:
        returns: sums of rewards, `[episodes]`.
        lengths: env steps, `[episodes]`.
        success: 1 where a goal was reached, else 0, `[episodes]`; None for tasks without one.
        failed: episodes that are left out, because their environment failed each time.
        checkpoint: env steps that the agent had been trained for, where a run was evaluated.
        predicted: of a reward that nothing was trained for, the returns that the model expected as
            skills were chosen, `[episodes]`, to be compared with `returns`; else None.
        fit: how well such a reward was fitted to the model's states, where it was.
    """

    returns: np.ndarray
    lengths: np.ndarray
    success: np.ndarray | None
    failed: int = 0
    checkpoint: int | None = None
    predicted: np.ndarray | None = None
    fit: Fit | None = None

    def metrics(self) -> dict[str, Any]:
        """What an `eval` line of metrics.jsonl holds."""
        values = {
            "eval/return": float(self.returns.mean()),
            "eval/std": float(self.returns.std()),
            "eval/success": None if self.success is None else float(self.success.mean()),
            "eval/episodes": len(self.returns),
            "eval/returns": [float(x) for x in self.returns],
            "eval/length": float(self.lengths.mean()),
        }
        return values | ({"eval/failed": self.failed} if self.failed else {})


class _Outcome(NamedTuple):
    """Of one episode; `problem` is why its environment failed."""

    total: float = 0.0
    env_steps: int = 0
    success: bool | None = None
    problem: str | None = None
    predicted: float | None = None


def episode_seeds(count: int, attempt: int = 0, draw: int | None = None) -> list[int]:
    """The same for every method and seed, so that all are asked the same questions.

    Each further attempt has others, and so has each `draw`.
    """
    words: int | list[int] = 2021 if attempt == 0 else [2021, attempt]
    if draw is not None:
        words = [2021, attempt, draw + 1]  # zeros at the end would change nothing
    return [int(x) for x in np.random.SeedSequence(words).generate_state(count) >> 1]


def evaluate(
    networks: AnyNetworks,
    make_env: Callable[[], Env],
    episodes: int,
    seed: int = 0,
    runtime: RuntimeConfig | None = None,
    on_frame: Callable[[np.ndarray], None] | None = None,
    on_step: Callable[[], None] = lambda: None,
    skills: SkillChoice | None = None,
    env: Env | None = None,
    draw: int | None = None,
) -> Evaluation:
    """Run `episodes` episodes with agents of their own, which `seed` seeds and `runtime` speeds up.

    Each `draw` has other episodes; without one they are the same for every run.

    `skills` are chosen so, whatever the settings say. `constant` and `shuffled` evaluate with
    planned skills first, in the same episodes, and then hold theirs (`PlannedSkills`).

    `on_frame` is given a picture of the first episode at every agent step. `on_step` is
    called there too, and may raise to end the evaluation. With `env`, of which there can be only
    one, all episodes are run in it, one after the other, and it stays open.

    Raises UserError where no environment can be made, every episode fails, or a single one is to be
    shuffled.
    """
    place = _Place(make_env, env)
    asked = partial(_evaluate, networks, place, seed, runtime, on_step)
    seeds = episode_seeds(episodes, draw=draw)
    if skills == "constant" or skills == "shuffled":
        check_shuffled(skills, episodes)
        recorder = SkillRecorder()
        asked("planned", recorder.act, seeds, None)
        outcomes = asked("planned", recorder.planned().holding(skills), seeds, on_frame)
        return _summary(networks.config.task, outcomes)
    ask = partial(asked, skills, lambda agent, seen, now: agent.act(seen))
    outcomes = ask(seeds, on_frame)
    for attempt in range(1, RETRIES + 1):
        failed = [i for i, outcome in enumerate(outcomes) if outcome.problem is not None]
        if not failed:
            break
        for i, outcome in zip(failed, ask(episode_seeds(len(failed), attempt, draw), None)):
            outcomes[i] = outcome
    return _summary(networks.config.task, outcomes)


class _Place:
    """Where episodes are run: in environments that are made for it, or in the only one."""

    def __init__(self, make: Callable[[], Env], only: Env | None) -> None:
        self.make, self.only = make, only
        self.at_once = MOST_AT_ONCE if only is None else 1

    def open(self, count: int) -> list[Env]:
        """Up to `count`, or as many as there can be beside each other: of a robot there is one."""
        if self.only is not None:
            return [self.only]
        asked = min(count, self.at_once)
        envs = several(self.make, asked, fewer=True)
        if len(envs) < asked:
            self.at_once = len(envs)
        return envs

    def close(self, envs: list[Env]) -> None:
        if self.only is None:
            close(envs)


def _summary(task: str, outcomes: Sequence[_Outcome]) -> Evaluation:
    """Of the episodes that did not fail. Raises UserError where all did."""
    done = [outcome for outcome in outcomes if outcome.problem is None]
    problems = [outcome.problem for outcome in outcomes if outcome.problem is not None]
    if not done:
        raise UserError(f"{task}: every episode of an evaluation failed ({problems[-1]})")
    if problems:
        warn(
            f"{task}: {len(problems)} of {len(outcomes)} episodes of an evaluation failed "
            f"{RETRIES + 1} times each and are left out ({problems[-1]})"
        )
    success = [outcome.success for outcome in done]
    told = any(each is not None for each in success)  # by some tasks only where there is one
    return Evaluation(
        np.array([outcome.total for outcome in done]),
        np.array([outcome.env_steps for outcome in done]),
        np.array([bool(each) for each in success], float) if told else None,
        len(problems),
        predicted=None if None in (x := [each.predicted for each in done]) else np.array(x, float),
    )


def _evaluate(
    networks: AnyNetworks,
    place: _Place,
    seed: int,
    runtime: RuntimeConfig | None,
    on_step: Callable[[], None],
    skills: Literal["planned", "prior"] | None,
    act: Act,
    seeds: list[int],
    on_frame: Callable[[np.ndarray], None] | None,
) -> list[_Outcome]:
    """An episode for each of `seeds`, as many of them at once as there is room for."""
    outcomes: list[_Outcome] = []
    while len(outcomes) < len(seeds):
        envs = place.open(len(seeds) - len(outcomes))
        part = slice(len(outcomes), len(outcomes) + len(envs))
        try:
            agent = build_agent(networks, "evaluate", len(envs), seed, runtime, skills)
            film = on_frame if not outcomes else None
            expected = agent.foreseen if isinstance(agent, Agent) else None
            outcomes += _run(partial(act, agent), expected, envs, seeds, part, film, on_step)
        finally:
            place.close(envs)
    return outcomes


def _run(
    act: Callable[[dict[str, np.ndarray], Now], np.ndarray],
    expected: Callable[[], np.ndarray | None] | None,
    envs: list[Env],
    seeds: list[int],
    part: slice,
    on_frame: Callable[[np.ndarray], None] | None,
    on_step: Callable[[], None],
) -> list[_Outcome]:
    episodes = [_Episode(env, seed) for env, seed in zip(envs, seeds[part], strict=True)]
    for step_number in itertools.count():
        running = np.array([episode.running for episode in episodes])
        if not running.any():
            break
        on_step()
        if on_frame is not None and running[0]:
            on_frame(np.asarray(envs[0].render()))
        seen = [episode.observation for episode in episodes]
        shown = next(x for x in seen if x is not None)
        batch = {
            key: np.stack([np.zeros_like(x) if each is None else each[key] for each in seen])
            for key, x in shown.items()
        }
        actions = act(batch, Now(step_number, part, running))
        foreseen = None if expected is None else expected()
        for i in np.flatnonzero(running):
            episodes[i].step(actions[i], None if foreseen is None else float(foreseen[i]))
    return [episode.outcome for episode in episodes]


class _Episode:
    """One episode under way, and what it came to."""

    def __init__(self, env: Env, seed: int) -> None:
        self._env, self.outcome, self.running = InProcess(env), _Outcome(), True
        self.observation: dict[str, np.ndarray] | None = None
        self._take(lambda: self._env.reset({0: seed})[0])

    def step(self, action: np.ndarray, foreseen: float | None = None) -> None:
        given = self._take(lambda: self._env.step(action[None])[0])
        if given is None:
            return
        before, success = self.outcome, self.outcome.success
        if "success" in given.info:
            success = bool(success) or bool(given.info["success"])
        env_steps = before.env_steps + int(given.info["env_steps"])
        predicted = None if foreseen is None else (before.predicted or 0.0) + foreseen
        total = before.total + given.reward
        self.outcome = _Outcome(total, env_steps, success, predicted=predicted)
        self.running = not (given.terminated or given.truncated)

    def _take(self, act: Callable[[], Step | Failure]) -> Step | None:
        """What the environment gives; None where it fails, which ends the episode."""
        try:
            given = act()
        except UserError as error:
            given = Failure(str(error), error)
        if isinstance(given, Failure):
            self.outcome, self.running = _Outcome(problem=given.reason), False
            return None
        self.observation = given.observation
        return given
