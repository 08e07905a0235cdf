"""Opening a run: making its parts, locking its folder, and resuming what it has learned.

The order matters. What cannot be learned from leaves no folder behind; nothing is written into a
folder that another process holds, or that holds another run.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from lsp.config import Config, RuntimeConfig, to_dict
from lsp.envs import make_env
from lsp.envs.lookup import Task
from lsp.envs.probe import is_users, second_environment, try_first_step, warn_of_memory
from lsp.envs.rewards import OwnReward, try_reward
from lsp.envs.vector import Environments, Failure, InProcess, Workers, is_repeatable
from lsp.errors import UserError
from lsp.runs.checkpoint import Checkpoint
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import MetricsLogger, read_metrics
from lsp.runs.spaces import spaces_of
from lsp.runs.tracking import Tracker
from lsp.training.averaging import AveragedWeights
from lsp.training.build import (
    AnyAgent,
    AnyLearner,
    AnyNetworks,
    build_agent,
    build_learner,
    build_networks,
)
from lsp.training.collector import Collector
from lsp.training.replay import Replay
from lsp.training.run_state import Counters, RunState
from lsp.training.running_means import RunningMeans

LOG = logging.getLogger("lsp")
"""What a user may want to know and need not act on; the command line prints it."""

EnvMaker = Callable[[], gymnasium.Env[Any, Any]]


def env_maker(config: Config, source: Task, reward: OwnReward | None = None) -> EnvMaker:
    """Makes environments for a run's agents; it can be sent to other processes if `source` can.

    `reward` is that of the settings, where it was passed from Python.
    """
    return partial(
        make_env,
        source,
        obs=config.obs,
        action_repeat=config.action_repeat,
        render_quality=config.render_quality,
        reward=reward or config.reward,
        images=config.images,
    )


@dataclass
class Parts:
    """What a run is made of.

    Attributes:
        config: its settings, with what the task decides filled in.
        make_env: makes environments like `env`, for evaluation.
        env: what is collected from, where it is not done in worker processes.
        averaged: a slow copy of the networks, if the settings ask for one.
        only_env: whether there can be no other beside it, so that it serves evaluations too.
        source_replay: a transfer's episodes of its source, where they are kept.
        resumed: whether a checkpoint was loaded.
        state: what a checkpoint keeps of the parts above.
        opened: closes what must be closed.
    """

    config: Config
    folder: RunFolder
    runtime: RuntimeConfig
    make_env: EnvMaker
    env: gymnasium.Env[Any, Any]
    only_env: bool
    networks: AnyNetworks
    averaged: AveragedWeights | None
    learner: AnyLearner
    agent: AnyAgent
    replay: Replay
    source_replay: Replay | None
    collector: Collector
    sampler: np.random.Generator
    means: RunningMeans
    counters: Counters
    metrics: MetricsLogger
    resumed: bool
    opened: ExitStack = field(repr=False)

    @property
    def state(self) -> RunState:
        return RunState(
            self.folder.id,
            *(self.networks, self.averaged, self.learner, self.agent, self.collector),
            *(self.sampler, self.means, self.counters),
        )


def open_run(
    config: Config,
    folder: RunFolder,
    runtime: RuntimeConfig,
    make_env: EnvMaker | None = None,
    force: bool = False,
) -> Parts:
    """The parts of a new run in `folder`, or of the one that it holds, at its newest checkpoint.

    `make_env` makes environments if the task's name does not. With `force` a run of other settings
    is resumed with these, as far as its checkpoint fits.

    Raises UserError where nothing can be learned from the environment, or the folder is in use,
    holds another run, or cannot be read or written; then a folder that was made here is gone again.
    """
    config = config.resolved()
    make_env = make_env or env_maker(config, config.task)
    with ExitStack() as opened:
        try:
            parts = _open(config, folder, runtime, make_env, force, opened)
        except BaseException:
            folder.discard()
            raise
        parts.opened = opened.pop_all()
        return parts


def _open(
    config: Config,
    folder: RunFolder,
    runtime: RuntimeConfig,
    make_env: EnvMaker,
    force: bool,
    opened: ExitStack,
) -> Parts:
    """`open_run`, in which everything that must be closed is handed to `opened`."""
    torch.manual_seed(config.seed)
    env = make_env()
    opened.callback(env.close)
    _check_first_observation(env, config)
    only_env = _try(env, make_env, config, runtime)
    networks = build_networks(spaces_of(env), config, runtime.device)
    opened.callback(folder.close)
    folder.open(config, runtime, force)
    if not force:
        folder.check_spaces(spaces_of(env))
    learner = build_learner(networks, config.seed, runtime)
    agent = build_agent(networks, "collect", config.num_envs, config.seed + 1, runtime)
    checkpoint, rate = _newest_checkpoint(folder, force), config.optimizer.average_rate
    replay, source_replay = _load_replays(config, folder, checkpoint)
    envs = _environments(env, make_env, config, runtime)
    opened.callback(envs.close)
    collector = Collector(envs, agent, replay, config.seed)
    metrics = MetricsLogger(folder.path, _tracker(config, folder, runtime))
    opened.callback(metrics.close)
    parts = Parts(
        config=config,
        folder=folder,
        runtime=runtime,
        make_env=make_env,
        env=env,
        only_env=only_env,
        networks=networks,
        averaged=AveragedWeights(networks, rate) if rate else None,
        learner=learner,
        agent=agent,
        replay=replay,
        source_replay=source_replay,
        collector=collector,
        sampler=np.random.default_rng([config.seed, 2]),
        means=RunningMeans(),
        counters=Counters(),
        metrics=metrics,
        resumed=checkpoint is not None,
        opened=opened,
    )
    if checkpoint is not None:
        parts.state.restore(checkpoint, folder.checkpoints, force)
    metrics.truncate(collector.env_steps)
    _forget_paid_evaluation(parts)
    folder.record(config, runtime)
    symlogged = config.method != "hiro" and config.model.obs_transform == "symlog"
    LOG.info(f"{config.task}: {spaces_of(env).told(symlogged, config.model.untransformed)}")
    folder.write_spaces(spaces_of(env))
    return parts


def _forget_paid_evaluation(parts: Parts) -> None:
    """Where the evaluation that a checkpoint owes was made after all: its line is there."""
    if not parts.counters.owes_evaluation:
        return
    here = parts.collector.env_steps
    for line in read_metrics(parts.folder.path):
        if line["kind"] == "eval" and line["env_steps"] == here:
            parts.counters.owes_evaluation = False
            parts.counters.eval_return = line.get("eval/return") or parts.counters.eval_return


def _tracker(config: Config, folder: RunFolder, runtime: RuntimeConfig) -> Tracker | None:
    return None if runtime.track is None else Tracker(runtime.track, folder.path, to_dict(config))


def _newest_checkpoint(folder: RunFolder, force: bool) -> Checkpoint | None:
    """None for a new run. Raises UserError where there was one: a run has a checkpoint before its
    first metrics, and without it would start from scratch over the episodes of an old one."""
    checkpoint, metrics = folder.newest_checkpoint(), folder.path / "metrics.jsonl"
    if checkpoint is None and not force and metrics.is_file() and metrics.stat().st_size:
        raise UserError(
            f"{folder.checkpoints} holds no checkpoint of the run that wrote {metrics}: restore "
            "one, choose another --logdir, or start from scratch here by --force"
        )
    return checkpoint


def _load_replays(
    config: Config, folder: RunFolder, checkpoint: Checkpoint | None
) -> tuple[Replay, Replay | None]:
    """The run's own, and that of a transfer's source where it is kept and has been copied."""
    episodes = 0 if checkpoint is None else count_episodes(checkpoint, folder)
    own = Replay.load(folder.episodes, config.replay.capacity, episodes, folder.id)
    if checkpoint is None or not config.transfer.keep_replay:
        return own, None
    return own, Replay.load_all(folder.source_episodes, folder.id)


def count_episodes(checkpoint: Checkpoint, folder: RunFolder) -> int:
    """Whole episodes of the replay that belong to it. Raises UserError where it does not say."""
    count = checkpoint.facts.get("episodes")
    if type(count) is not int or count < 0:
        raise UserError(f"{folder.checkpoints}: the checkpoint counts {count!r} episodes")
    return count


def weights_of(checkpoint: Checkpoint, folder: RunFolder) -> dict[str, Tensor]:
    """Those of its networks, averaged where the run has averaged them. Raises UserError where it
    has none."""
    if "networks" not in checkpoint.tensors:
        raise UserError(
            f"{folder.checkpoints}: the checkpoint at {checkpoint.env_steps} env steps holds no "
            "networks.safetensors: restore it, or another checkpoint"
        )
    return checkpoint.tensors.get("averaged", checkpoint.tensors["networks"])


def _environments(
    env: gymnasium.Env[Any, Any], make_env: EnvMaker, config: Config, runtime: RuntimeConfig
) -> Environments:
    """What to collect from: `env` itself, or others like it in worker processes."""
    if config.num_envs == 1:
        return InProcess(env)
    return Workers(make_env, config.num_envs, env, config.task, runtime.patience)


def _check_first_observation(env: gymnasium.Env[Any, Any], config: Config) -> None:
    """Raises UserError where resetting fails, or gives something else than its space."""
    begun = InProcess(env).reset({0: config.seed})[0]
    if isinstance(begun, Failure):
        raise UserError(f"{config.task}: reset failed ({begun.reason})") from begun.cause


def _try(
    env: gymnasium.Env[Any, Any], make_env: EnvMaker, config: Config, runtime: RuntimeConfig
) -> bool:
    """Try a user's environment or reward for some steps; whether there is only one environment.

    Raises UserError where nothing can be learned from what a step gives, or where there is only one
    environment and several are to be collected from.
    """
    users = is_users(env)
    if users or config.reward is not None:
        try_first_step(env, config.task, config.seed)
        try_reward(env, config.seed)
    if not users:
        return runtime.only_env
    one_by_nature = runtime.only_env or not is_repeatable(env)
    other, problem = (None, "") if one_by_nature else second_environment(make_env)
    if is_repeatable(env):
        warn_of_memory(make_env, other, env, config.task)
    if other is not None:
        other.close()
        return False
    if config.num_envs > 1:
        raise UserError(f"{config.task}: there is only one environment: train with num_envs = 1")
    why = f" (another one cannot be made: {problem})" if problem else ""
    LOG.info(f"{config.task}: evaluated in its only environment, between episodes{why}")
    return True
