"""Environment interaction of Algorithm 1: act, record, hand whole episodes to the replay."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from lsp.agent import Agent
from lsp.errors import UserError
from lsp.replay import Replay

Rows = list[dict[str, Any]]
"""Arrays and numpy scalars by key, one entry for each agent step so far."""


class EpisodeSummary(NamedTuple):
    """A finished training episode: summed reward, and its length in env steps."""

    total: float
    env_steps: int


class Collector:
    """Steps one environment, first with random actions, then with an agent.

    Every episode is reset with a seed of its own, derived from the run's seed and the episode's
    number, so that an episode can be taken up again by repeating its actions.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], agent: Agent, replay: Replay, seed: int):
        self.env, self.agent, self.replay, self.seed = env, agent, replay, seed
        assert env.action_space.shape is not None
        self.action_shape = env.action_space.shape
        self.random = True
        self.rng = np.random.default_rng([seed, 1])
        self.env_steps = 0
        self.rows: Rows = []

    def step(self) -> EpisodeSummary | None:
        """One agent step; begins an episode where none is under way. A summary when it ends."""
        if not self.rows:
            observation, info = self.env.reset(seed=self._episode_seed())
            self._record(observation, np.zeros(self.action_shape), 0.0, False, info)
            self.agent.reset()
        action = self._action()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._record(observation, action, float(reward), terminated, info)
        self.env_steps += info["env_steps"]
        return self._finish() if terminated or truncated else None

    def _episode_seed(self) -> int:
        words = np.random.SeedSequence([self.seed, self.replay.num_episodes]).generate_state(1)
        return int(words[0] >> 1)  # some environments refuse seeds above 2^31

    def _action(self) -> np.ndarray:
        if self.random:
            return self.rng.uniform(-1, 1, self.action_shape).astype(np.float32)
        last = self.rows[-1]
        observation = {k[4:]: x for k, x in last.items() if k.startswith("obs/")}
        return self.agent.act(observation)

    def _record(
        self,
        observation: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: float,
        terminated: bool,
        info: Mapping[str, Any],
    ) -> None:
        """Append row t: observation t, the action that led to it, the reward on arrival."""
        row: dict[str, Any] = {f"obs/{key}": x for key, x in observation.items()} | {
            "action": np.asarray(action, np.float32),
            "reward": np.float32(reward),
            "is_first": np.bool_(not self.rows),
            "is_terminal": np.bool_(terminated),
            "env_steps": np.int32(info["env_steps"]),
        }
        if "sim_state" in info:
            row["sim_state"] = info["sim_state"]
        self.rows.append(row)

    def _finish(self) -> EpisodeSummary:
        episode = stack(self.rows)
        self.replay.add(episode)
        self.rows = []
        return EpisodeSummary(float(episode["reward"].sum()), int(episode["env_steps"].sum()))

    def resume(self, rows: Mapping[str, np.ndarray]) -> None:
        """Take up an unfinished episode: reset with its seed and repeat its actions.

        Raises UserError if the environment does not arrive where it was.
        """
        count = len(rows["action"]) if rows else 0
        self.rows = [{key: x[t] for key, x in rows.items()} for t in range(count)]
        if not self.rows:
            return
        observation, _ = self.env.reset(seed=self._episode_seed())
        for action in rows["action"][1:]:
            observation, *_ = self.env.step(action)
        for key, value in observation.items():
            if not np.array_equal(value, self.rows[-1][f"obs/{key}"]):
                raise UserError(
                    f"cannot resume in the middle of an episode: repeating its actions gave "
                    f"another {key}, so the environment is not deterministic"
                )


def stack(rows: Rows) -> dict[str, np.ndarray]:
    """A list of rows to arrays with a leading time axis."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]} if rows else {}
