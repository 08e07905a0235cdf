"""The outer loop of Algorithm 1: learn, interact, and now and then log, evaluate and save."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from lsp.checkpoint import Checkpoint, load_newest, save
from lsp.config import Config, RuntimeConfig
from lsp.envs import make_env
from lsp.envs.user import Task
from lsp.envs.workers import Environments, InProcess, Workers
from lsp.evaluation import evaluate
from lsp.interaction import Collector, EpisodeSummary
from lsp.methods import build_agent, build_learner, build_networks
from lsp.metrics import MetricsLogger
from lsp.prediction import has_images, write_film
from lsp.replay import Replay
from lsp.run import RunFolder


class Progress(NamedTuple):
    """What a listener is told at every log line."""

    env_steps: int
    total_steps: int
    episode_return: float | None
    eval_return: float | None
    steps_per_second: float


def env_maker(config: Config, source: Task) -> Callable[[], gymnasium.Env[Any, Any]]:
    """Makes environments for a run's agents; it can be sent to other processes if `source` can."""
    settings = config.obs, config.action_repeat, config.render_quality, config.reward
    return partial(make_env, source, *settings)


class Trainer:
    """One run in one folder. Opening a folder with checkpoints takes the run up where it was.

    `source` is where environments come from if not from the task's name: a function, called for
    each of them.

    `fresh` says that nothing was taken up. Set `stopping` to end `run` after the current step,
    saved but not evaluated.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        runtime: RuntimeConfig,
        source: Task | None = None,
    ):
        config = config.resolved()
        self.config, self.folder = config, folder
        self.maker = env_maker(config, config.task if source is None else source)
        self.stopping = False
        torch.manual_seed(config.seed)
        self.env = self.make_env()
        self.networks = build_networks(self.env, config, runtime.device)
        folder.open(config, runtime)  # now: what cannot be learned leaves no folder behind
        self.learner = build_learner(self.networks, config.seed, runtime)
        self.sampler = np.random.default_rng([config.seed, 2])
        self.agent = build_agent(self.networks, "collect", config.num_envs, config.seed + 1)
        self.learning_since: int | None = None
        self.updates = 0
        self.seconds = 0.0
        self.means = Means()
        self.last_return: float | None = None
        self.eval_return: float | None = None
        checkpoint = load_newest(folder.checkpoints)
        episodes = checkpoint.facts["episodes"] if checkpoint else 0
        self.replay = Replay.load(folder.episodes, config.replay.capacity, episodes)
        self.envs = self._environments()
        self.collector = Collector(self.envs, self.agent, self.replay, config.seed)
        self.metrics = MetricsLogger(folder.path)
        if checkpoint:
            self._restore(checkpoint)
        self.metrics.truncate(self.collector.env_steps)
        self.fresh = checkpoint is None
        self.saved_at = self.evaluated_at = self.collector.env_steps if checkpoint else -1

    def make_env(self) -> gymnasium.Env[Any, Any]:
        return self.maker()

    def _environments(self) -> Environments:
        """What to collect from: `env` itself, or others like it in worker processes."""
        config = self.config
        if config.num_envs == 1:
            return InProcess(self.env)
        return Workers(self.maker, config.num_envs, self.env, config.task)

    @property
    def env_steps(self) -> int:
        return self.collector.env_steps

    def run(self, steps: int, listen: Callable[[Progress], None] = lambda progress: None) -> None:
        """Algorithm 1, until `steps` env steps have been taken; then evaluate and save.

        The dataset starts with random episodes (`schedule.prefill` env steps, rounded up).
        """
        schedule, collector = self.config.schedule, self.collector
        clock = _Clock(self.env_steps)
        while self.env_steps < steps and not self.stopping:
            # Update step c = 1..C
            for _ in range(self._updates_due()):
                self._learn()
            # Environment interaction; whole episodes join the dataset
            before = self.env_steps
            for finished in collector.step():
                self._end_episode(finished)
            # Now and then
            due = _Due(before, self.env_steps)
            if due(schedule.log_every):
                self.seconds += clock.lap()
                listen(self._log(steps, clock.rate(self.env_steps)))
            if due(schedule.eval_every):
                self.evaluate()
            if due(schedule.save_every):
                self.seconds += clock.lap()
                self.save()
        self.seconds += clock.lap()
        if self.evaluated_at != self.env_steps and not self.stopping:
            self.evaluate()
        if self.saved_at != self.env_steps:
            self.save()

    def _updates_due(self) -> int:
        """Updates owed by now: one for every `update_every` env steps since learning began."""
        if self.learning_since is None:
            return 0
        schedule, transfer = self.config.schedule, self.config.transfer
        owed = (self.env_steps - self.learning_since) // schedule.update_every
        first = transfer.updates if transfer.relabel else schedule.pretrain
        return first + owed - self.updates

    def _learn(self) -> None:
        self.means.add(self.learner.update(self.draw_batch()))
        self.updates += 1

    def draw_batch(self) -> dict[str, np.ndarray]:
        """B data sequences."""
        replay = self.config.replay
        return self.replay.sample(replay.batch, replay.length, self.sampler)

    def _end_episode(self, finished: EpisodeSummary) -> None:
        self.last_return = finished.total
        values = {"episode/return": finished.total, "episode/length": finished.env_steps}
        if finished.success is not None:
            values["episode/success"] = float(finished.success)
        self.metrics.write("episode", self.env_steps, values)
        filled = self.env_steps >= self.config.schedule.prefill
        if filled and self.learning_since is None and len(self.replay) >= self.config.replay.length:
            self.learning_since = self.env_steps
            self.collector.random = False

    def _log(self, steps: int, rate: float) -> Progress:
        values: dict[str, Any] = {"steps_per_second": rate, "wall_hours": self.seconds / 3600}
        values |= self.means.take()
        values |= {name: float(x) for name, x in self.learner.probe_skills().items()}
        values["updates"] = self.updates
        self.metrics.write("train", self.env_steps, values)
        return Progress(self.env_steps, steps, self.last_return, self.eval_return, rate)

    def evaluate(self) -> None:
        """Evaluate and write an `eval` line, and from pixels a film of what the model foresees.

        Training is not touched by it.
        """
        seconds = time.monotonic()
        outcome = evaluate(
            self.networks, self.make_env, self.config.schedule.eval_episodes, self.config.seed
        )
        values = outcome.metrics() | {"wall_hours": self.seconds / 3600}
        values["eval/seconds"] = time.monotonic() - seconds
        self.metrics.write("eval", self.env_steps, values)
        self.eval_return, self.evaluated_at = values["eval/return"], self.env_steps
        if has_images(self.networks):
            write_film(self.networks, self.replay, self.folder.open_loop)

    def save(self) -> None:
        """Write a checkpoint that resumes exactly here."""
        optimizers = {
            f"{name}.{index}.{key}": value
            for name, optimizer in self.learner.optimizers.items()
            for index, state in optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }
        tensors = {
            "networks": dict(self.networks.state_dict()),
            "optimizers": optimizers,
            "agent": self.agent.state(),
            "learner": self.learner.state(),
            "means": self.means.sums,
        }
        facts = self.collector.facts() | {
            "episodes": self.replay.num_episodes,
            "updates": self.updates,
            "learning_since": self.learning_since,
            "seconds": self.seconds,
            "sampler_rng": self.sampler.bit_generator.state,
            "means_count": self.means.count,
            "last_return": self.last_return,
            "eval_return": self.eval_return,
        }
        checkpoint = Checkpoint(self.env_steps, tensors, self.collector.unfinished(), facts)
        save(self.folder.checkpoints, checkpoint)
        self.saved_at = self.env_steps

    def _restore(self, checkpoint: Checkpoint) -> None:
        facts, tensors = checkpoint.facts, checkpoint.tensors
        self.networks.load_state_dict(tensors["networks"])
        for name, optimizer in self.learner.optimizers.items():
            state: dict[int, dict[str, torch.Tensor]] = {}
            for path, value in tensors["optimizers"].items():
                part, index, key = path.split(".")
                if part == name:
                    state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        self.agent.load_state(tensors["agent"])
        self.learner.load_state(tensors["learner"])
        self.means = Means(tensors["means"], facts["means_count"])
        self.updates, self.seconds = facts["updates"], facts["seconds"]
        self.learning_since = facts["learning_since"]
        self.last_return, self.eval_return = facts["last_return"], facts["eval_return"]
        self.sampler.bit_generator.state = facts["sampler_rng"]
        self.collector.restore(facts, checkpoint.episode)

    def close(self) -> None:
        self.metrics.close()
        self.envs.close()
        self.env.close()


class _Due:
    """Whether a multiple of some number of env steps has just been passed."""

    def __init__(self, before: int, now: int):
        self.before, self.now = before, now

    def __call__(self, every: int) -> bool:
        return every > 0 and self.now // every > self.before // every


class _Clock:
    """Seconds spent, and env steps per second, since the last lap."""

    def __init__(self, env_steps: int):
        self.last = self.began = time.monotonic()
        self.env_steps = env_steps
        self.began_rate = self.last

    def lap(self) -> float:
        now = time.monotonic()
        self.last, elapsed = now, now - self.last
        return elapsed

    def rate(self, env_steps: int) -> float:
        now = time.monotonic()
        rate = (env_steps - self.env_steps) / max(now - self.began_rate, 1e-9)
        self.env_steps, self.began_rate = env_steps, now
        return rate


class Means:
    """Running means of the metrics of updates, kept on the device until they are taken."""

    def __init__(self, sums: dict[str, torch.Tensor] | None = None, count: int = 0):
        self.sums, self.count = sums or {}, count

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.float()
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means since the last call; empty where there was no update."""
        sums, count, self.sums, self.count = self.sums, self.count, {}, 0
        values = torch.stack(list(sums.values())).tolist() if sums else []
        return {name: value / count for name, value in zip(sums, values, strict=True)}
