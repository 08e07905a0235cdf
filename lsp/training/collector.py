"""Environment interaction of Algorithm 1: act, record, hand whole episodes to the replay."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from lsp.envs.vector import Environments, Failure, Step
from lsp.errors import NotFinite, UserError, warn
from lsp.rows import as_rows, observations
from lsp.training.replay import Replay

RESTARTS = 3
"""Times in a row that an environment may fail before it has finished an episode."""

Rows = list[dict[str, Any]]
"""Arrays and numpy scalars by key, one entry for each agent step so far."""


@runtime_checkable
class ActingAgent(Protocol):
    """What collecting asks of an agent; `lsp.algorithm.agent.Agent` is the first of them.

    `notes` are arrays `[num_envs, ...]` that belong to the last action of each env, zeros where
    none was taken yet; they go into its row of the replay. The keys are always the same.
    With `notes_random_actions` it is asked before random actions as well, and notes something.
    """

    networks: Any
    notes_random_actions: bool

    def begin(self, index: int) -> None: ...
    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray: ...
    def notes(self) -> dict[str, np.ndarray]: ...


class EpisodeSummary(NamedTuple):
    """A finished training episode: summed reward, its length in env steps, and for tasks with a
    goal whether it was reached."""

    total: float
    env_steps: int
    success: bool | None


class Collector:
    """Steps environments side by side, first with random actions, then with an agent.

    Each has its own episode under way. Every episode is reset with a seed of its own, derived from
    the run's seed and the episode's number, counted as they begin, so that an episode can be
    resumed by repeating its actions.

    Where an environment fails, its episode is kept as truncated and it begins another one. Raises
    UserError where it fails again and again, or observes what is not finite, and NotFinite where
    the agent's action is not.
    """

    def __init__(self, envs: Environments, agent: ActingAgent, replay: Replay, seed: int):
        self.envs, self.agent, self.replay, self.seed = envs, agent, replay, seed
        self.action_dim = agent.networks.action_dim
        self.task = agent.networks.config.task
        self.random = True
        self.rng = np.random.default_rng([seed, 1])
        self.env_steps = 0
        self.begun = 0
        self.numbers = [0] * envs.count
        self.failures = [0] * envs.count
        self.rows: list[Rows] = [[] for _ in range(envs.count)]
        self.success: list[bool | None] = [None] * envs.count

    @property
    def can_resume(self) -> bool:
        """Whether a run could resume from a checkpoint of now exactly here."""
        return self.envs.repeatable or self.between_episodes

    @property
    def between_episodes(self) -> bool:
        """Whether no episode is under way."""
        return not any(self.rows)

    def step(self) -> list[EpisodeSummary]:
        """One agent step in every env; begins episodes where none is under way.

        Returns the episodes that ended.
        """
        self._begin_episodes()
        actions = self._actions()
        ended = []
        for index, outcome in enumerate(self.envs.step(actions)):
            if isinstance(outcome, Failure):
                self._start_again(index, outcome)
                continue
            self._record(index, outcome, actions[index])
            self.env_steps += int(outcome.info["env_steps"])
            if "success" in outcome.info:
                self.success[index] = bool(self.success[index] or outcome.info["success"])
            if outcome.terminated or outcome.truncated:
                ended.append(index)
        return [self._finish(index) for index in ended]

    def _begin_episodes(self) -> None:
        while idle := [index for index, rows in enumerate(self.rows) if not rows]:
            for index in idle:
                self.numbers[index] = self.begun
                # Some tasks tell of a success only where there is one.
                self.success[index] = None if self.success[index] is None else False
                self.begun += 1
                self.agent.begin(index)
            begun = self.envs.reset({index: self._episode_seed(index) for index in idle})
            for index, outcome in begun.items():
                if isinstance(outcome, Failure):
                    self._start_again(index, outcome)
                else:
                    self._record(index, outcome, np.zeros(self.action_dim))

    def _start_again(self, index: int, failure: Failure) -> None:
        """Have a failed environment begin another episode; raises UserError after too many."""
        self.break_off(index)
        self.failures[index] += 1
        what = f"{self.task}: environment {index} failed ({failure.reason})"
        if self.failures[index] > RESTARTS:
            raise UserError(
                f"{what}, {self.failures[index]} times without finishing an episode: fix it "
                "(--debug shows where, with num_envs = 1); the same command then resumes from the "
                "last checkpoint"
            ) from failure.cause
        warn(f"{what}: its episode is kept as truncated, and it begins another one")

    def break_off(self, index: int) -> None:
        """End the episode under way as truncated; what was seen of it joins the dataset."""
        self._keep(self.rows[index])
        self.rows[index] = []

    def _keep(self, rows: Rows) -> None:
        if len(rows) > 1:
            self.replay.add(stack(rows))

    def _episode_seed(self, index: int) -> int:
        words = np.random.SeedSequence([self.seed, self.numbers[index]]).generate_state(1)
        return int(words[0] >> 1)  # some environments refuse seeds above 2^31

    def _actions(self) -> Float[np.ndarray, "envs action"]:
        if self.random and not self.agent.notes_random_actions:
            return self._random_actions()
        last = [rows[-1] for rows in self.rows]
        seen = [observations(row) for row in last]
        actions = self.agent.act({key: np.stack([x[key] for x in seen]) for key in seen[0]})
        if not np.isfinite(actions).all():
            given = {key: np.stack([row[key] for row in last]) for key in last[0]}
            raise NotFinite(
                f"{self.task}: the agent's action at env step {self.env_steps} is {actions}",
                given | {"next_action": actions},
            )
        return self._random_actions() if self.random else actions

    def _random_actions(self) -> Float[np.ndarray, "envs action"]:
        shape = self.envs.count, self.action_dim
        return self.rng.uniform(-1, 1, shape).astype(np.float32)

    def _record(self, index: int, step: Step, action: np.ndarray) -> None:
        """Append row t: observation t, the action that led to it with the agent's notes on it,
        the reward on arrival."""
        self._check_finite(index, step)
        rows = self.rows[index]
        row: dict[str, Any] = as_rows(step.observation) | {
            "action": np.asarray(action, np.float32),
            "reward": np.float32(step.reward),
            "is_first": np.bool_(not rows),
            "is_terminal": np.bool_(step.terminated),
            "env_steps": np.int32(step.info["env_steps"]),
        }
        row |= {key: x[index] for key, x in self.agent.notes().items()}
        if "sim_state" in step.info:
            row["sim_state"] = step.info["sim_state"]
        rows.append(row)

    def _check_finite(self, index: int, step: Step) -> None:
        given: dict[str, Any] = {f"observation '{k}'": x for k, x in step.observation.items()}
        for name, value in (given | {"the reward": step.reward}).items():
            if not np.isfinite(value).all():
                raise UserError(
                    f"{self.task}: {name} is not finite at step {len(self.rows[index])} of episode "
                    f"{self.numbers[index]} (env step {self.env_steps}): {value}: fix the "
                    "environment"
                )

    def _finish(self, index: int) -> EpisodeSummary:
        episode = stack(self.rows[index])
        self.replay.add(episode)
        self.rows[index], self.failures[index] = [], 0
        total, env_steps = float(episode["reward"].sum()), int(episode["env_steps"].sum())
        return EpisodeSummary(total, env_steps, self.success[index])

    @property
    def rows_under_way(self) -> int:
        """Rows of episodes that are not in the replay yet."""
        return sum(map(len, self.rows))

    def unfinished(self) -> dict[str, np.ndarray]:
        """The rows of all episodes under way, one env's after the other's, for a checkpoint."""
        return stack([row for rows in self.rows for row in rows])

    def facts(self) -> dict[str, Any]:
        """Everything else, for a checkpoint."""
        return {
            "env_steps": self.env_steps,
            "random": self.random,
            "random_rng": self.rng.bit_generator.state,
            "begun": self.begun,
            "numbers": list(self.numbers),
            "lengths": [len(rows) for rows in self.rows],
            "success": list(self.success),
        }

    def restore(
        self, facts: Mapping[str, Any], rows: Mapping[str, np.ndarray], resume: bool = True
    ) -> None:
        """The inverse of `facts` and `unfinished`: resets with the episodes' seeds and repeats
        their actions. An episode that does not arrive where it was is kept as truncated; all of
        them without `resume`, or where the number of environments changed.
        """
        self.env_steps, self.random = facts["env_steps"], facts["random"]
        self.rng.bit_generator.state = facts["random_rng"]
        self.begun = facts["begun"]
        start = 0
        under_way: list[Rows] = []
        for length in facts["lengths"]:
            mine = range(start, start + length)
            under_way.append([{key: x[t] for key, x in rows.items()} for t in mine])
            start += length
        if resume and len(under_way) == self.envs.count:
            self.rows, self.numbers = under_way, list(facts["numbers"])
            self.success = list(facts["success"])
            self._repeat_actions()
            return
        for episode in under_way:
            self._keep(episode)

    def _repeat_actions(self) -> None:
        running = {index: rows for index, rows in enumerate(self.rows) if rows}
        if not running:
            return
        if not self.envs.repeatable:
            for index in running:
                self.break_off(index)
            return
        seeds = {index: self._episode_seed(index) for index in running}
        actions = {i: np.stack([row["action"] for row in rows])[1:] for i, rows in running.items()}
        for index, outcome in self.envs.reset(seeds, actions).items():
            problem = _difference(outcome, running[index][-1])
            if problem is not None:
                self.break_off(index)
                self.envs.repeatable = False
                warn(
                    f"{self.task}: repeating the actions of an episode under way {problem}, so it "
                    "is kept as truncated; checkpoints wait for the ends of episodes from now on"
                )


def _difference(outcome: Step | Failure, row: Mapping[str, Any]) -> str | None:
    """How an environment that repeated an episode is not where it was."""
    if isinstance(outcome, Failure):
        return f"failed ({outcome.reason})"
    seen = observations(row)
    for key, value in outcome.observation.items():
        if not np.array_equal(value, seen[key]):
            return f"gave another {key}"
    return None


def stack(rows: Rows) -> dict[str, np.ndarray]:
    """A list of rows to arrays with a leading time axis."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]} if rows else {}
