"""Environment interaction of Algorithm 1: act, record, hand whole episodes to the replay."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from lsp.envs.workers import Environments, Step
from lsp.errors import UserError
from lsp.replay import Replay

Rows = list[dict[str, Any]]
"""Arrays and numpy scalars by key, one entry for each agent step so far."""


@runtime_checkable
class Actor(Protocol):
    """What collecting asks of an agent; `lsp.agent.Agent` is the first of them.

    `notes` are arrays `[num_envs, ...]` that belong to the last action of each env, zeros where
    none was taken yet; they go into its row of the replay. The keys are always the same.
    """

    networks: Any

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
    the run's seed and the episode's number, counted as they begin, so that an episode can be taken
    up again by repeating its actions.
    """

    def __init__(self, envs: Environments, agent: Actor, replay: Replay, seed: int):
        self.envs, self.agent, self.replay, self.seed = envs, agent, replay, seed
        self.action_dim = agent.networks.action_dim
        self.random = True
        self.rng = np.random.default_rng([seed, 1])
        self.env_steps = 0
        self.begun = 0
        self.numbers = [0] * envs.count
        self.rows: list[Rows] = [[] for _ in range(envs.count)]
        self.success: list[bool | None] = [None] * envs.count

    def step(self) -> list[EpisodeSummary]:
        """One agent step in every env; begins episodes where none is under way.

        Returns the episodes that ended.
        """
        self._begin_episodes()
        actions = self._actions()
        steps = self.envs.step(actions)
        for index, (step, action) in enumerate(zip(steps, actions, strict=True)):
            self._record(index, step, action)
            self.env_steps += int(step.info["env_steps"])
            if "success" in step.info:
                self.success[index] = bool(self.success[index] or step.info["success"])
        ended = [i for i, step in enumerate(steps) if step.terminated or step.truncated]
        return [self._finish(index) for index in ended]

    def _begin_episodes(self) -> None:
        idle = [index for index, rows in enumerate(self.rows) if not rows]
        if not idle:
            return
        for index in idle:
            self.numbers[index] = self.begun
            self.success[index] = None
            self.begun += 1
            self.agent.begin(index)
        begun = self.envs.reset({index: self._episode_seed(index) for index in idle})
        for index, (observation, info) in begun.items():
            step = Step(observation, 0.0, False, False, info)
            self._record(index, step, np.zeros(self.action_dim))

    def _episode_seed(self, index: int) -> int:
        words = np.random.SeedSequence([self.seed, self.numbers[index]]).generate_state(1)
        return int(words[0] >> 1)  # some environments refuse seeds above 2^31

    def _actions(self) -> Float[np.ndarray, "envs action"]:
        if self.random and not self.agent.notes():
            return self._random_actions()
        last = [rows[-1] for rows in self.rows]
        keys = [key for key in last[0] if key.startswith("obs/")]
        actions = self.agent.act({key[4:]: np.stack([row[key] for row in last]) for key in keys})
        # An agent that takes notes is asked in any case: its goals stand beside random actions.
        return self._random_actions() if self.random else actions

    def _random_actions(self) -> Float[np.ndarray, "envs action"]:
        shape = self.envs.count, self.action_dim
        return self.rng.uniform(-1, 1, shape).astype(np.float32)

    def _record(self, index: int, step: Step, action: np.ndarray) -> None:
        """Append row t: observation t, the action that led to it with the agent's notes on it,
        the reward on arrival."""
        rows = self.rows[index]
        row: dict[str, Any] = {f"obs/{key}": x for key, x in step.observation.items()} | {
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

    def _finish(self, index: int) -> EpisodeSummary:
        episode = stack(self.rows[index])
        self.replay.add(episode)
        self.rows[index] = []
        total, env_steps = float(episode["reward"].sum()), int(episode["env_steps"].sum())
        return EpisodeSummary(total, env_steps, self.success[index])

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

    def restore(self, facts: Mapping[str, Any], rows: Mapping[str, np.ndarray]) -> None:
        """The inverse of `facts` and `unfinished`: resets with the episodes' seeds and repeats
        their actions.

        Raises UserError if an environment does not arrive where it was.
        """
        self.env_steps, self.random = facts["env_steps"], facts["random"]
        self.rng.bit_generator.state = facts["random_rng"]
        # Older checkpoints are of one env, whose episode follows those of the replay.
        count, done = len(rows["action"]) if rows else 0, self.replay.num_episodes
        self.begun = facts.get("begun", done + (count > 0))
        self.numbers = list(facts.get("numbers", [done]))
        self.success = list(facts.get("success", self.success))
        start = 0
        for index, length in enumerate(facts.get("lengths", [count])):
            mine = range(start, start + length)
            self.rows[index] = [{key: x[t] for key, x in rows.items()} for t in mine]
            start += length
        self._repeat_actions()

    def _repeat_actions(self) -> None:
        running = {index: rows for index, rows in enumerate(self.rows) if rows}
        if not running:
            return
        seeds = {index: self._episode_seed(index) for index in running}
        actions = {i: np.stack([row["action"] for row in rows])[1:] for i, rows in running.items()}
        for index, (observation, _) in self.envs.reset(seeds, actions).items():
            for key, value in observation.items():
                if not np.array_equal(value, self.rows[index][-1][f"obs/{key}"]):
                    raise UserError(
                        f"cannot resume in the middle of an episode: repeating its actions gave "
                        f"another {key}, so the environment is not deterministic"
                    )


def stack(rows: Rows) -> dict[str, np.ndarray]:
    """A list of rows to arrays with a leading time axis."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]} if rows else {}
