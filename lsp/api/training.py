"""Training, checking and transferring: what the command line and `import lsp` offer."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from numbers import Real
from pathlib import Path
from typing import Any

from lsp.backends.torch_setup import prepare_torch
from lsp.config import Config, RuntimeConfig, default_runtime, make_config, validated
from lsp.envs.lookup import Maker, Task, task_name
from lsp.envs.rewards import OwnReward, RewardFunction, own_reward
from lsp.errors import UserError
from lsp.runs.files import expanded
from lsp.runs.folder import RunFolder
from lsp.runs.tracking import check_tracker
from lsp.training import signals
from lsp.training.check import Check, check_task
from lsp.training.parts import env_maker, open_run
from lsp.training.progress import show_progress
from lsp.training.schedule import Listener, Progress, both
from lsp.training.trainer import Trainer
from lsp.training.transfer import begin, transferred
from lsp.training.transfer import check as check_transfer


def train(
    task: Config | Task,
    logdir: str | Path,
    steps: int = 100_000,
    runtime: RuntimeConfig | None = None,
    listen: Callable[[Progress], None] = lambda progress: None,
    *,
    config: Config | None = None,
    reward: str | RewardFunction | None = None,
    force: bool = False,
    progress: bool = False,
) -> bool:
    """Train an agent, evaluating and saving on the way; resume the run that `logdir` holds.

    SIGINT, SIGTERM and SIGHUP save and return early.

    Args:
        task: all settings at once; or a task's name, a Gymnasium environment (which is copied for
            training and evaluation, and stays as it is) or a function that makes one.
        logdir: the run's folder.
        steps: env steps to train for, those of an earlier start included.
        runtime: where and how to compute; the preset's own if it is left out.
        listen: is called with a `Progress` at every log line. What it raises ends the run, which
            is saved first.
        config: the other settings, where `task` is a task.
        reward: what pays instead of the task: a function of (observations, actions) or of
            (simulator states, actions), or its name (docs/guide/tasks.md).
        force: resume a run of other settings with these, as far as they fit what it has learned.
        progress: print how it goes, as the command line does; a bar on a terminal.

    Returns:
        Whether `steps` was reached.

    Raises:
        UserError: a setting makes no sense, the task is unknown or none for LSP, the package that
            is to track the run is missing, or `logdir` holds another run, is in use, damaged beyond
            what a run survives, or cannot be written.
    """
    if not isinstance(steps, Real) or not 0 <= steps < inf:  # NaN neither
        raise UserError(f"steps must be a number of at least 0, not {steps!r}")
    if progress:
        with show_progress(int(steps)) as show:
            call = (task, logdir, steps, runtime, both(show, listen))
            return train(*call, config=config, reward=reward, force=force)
    settings, source, own = _settings(task, config, reward)
    runtime = runtime or default_runtime(settings.preset)
    check_tracker(runtime.track)
    prepare_torch(runtime)
    settings = validated(settings)
    folder, make = RunFolder(expanded(logdir)), env_maker(settings, source, own)
    if (
        settings.transfer.source is not None and not folder.has_checkpoint
    ):  # later the source may have gone away
        check_transfer(settings, make)  # before there is a folder
    return _run(Trainer(open_run(settings, folder, runtime, make, force)), steps, listen)


def _run(trainer: Trainer, steps: int, listen: Callable[[Progress], None]) -> bool:
    """Train until so many env steps or a signal; whether they were reached."""
    listener = Listener(listen, trainer.stop)
    try:
        with signals.calling(trainer.stop, once=True):
            if trainer.config.transfer.source is not None and trainer.fresh:
                _begin(trainer)
            trainer.run(steps, listener)
    finally:
        trainer.close()
    listener.raise_problem()
    return trainer.env_steps >= steps


def check(
    task: Config | Task,
    *,
    config: Config | None = None,
    reward: str | RewardFunction | None = None,
    only_env: bool = False,
) -> Check:
    """Try an environment without training: some seconds of random actions.

    Args:
        task: as for `train`.
        config: the other settings, where `task` is a task.
        reward: as for `train`.
        only_env: there can be only one environment: no second one is tried.

    Returns:
        What was found; as a string it is a few lines, the last of them the verdict.

    Raises:
        UserError: agents cannot learn from it, as `train` would say.
    """
    settings, source, own = _settings(task, config, reward)
    settings = validated(settings).resolved()
    return check_task(settings, env_maker(settings, source, own), only_env)


def transfer(
    run: str | Path,
    task: Task,
    logdir: str | Path,
    steps: int = 100_000,
    runtime: RuntimeConfig | None = None,
    listen: Callable[[Progress], None] = lambda progress: None,
    *,
    reward: str | RewardFunction | None = None,
    force: bool = False,
    progress: bool = False,
    **settings: Any,
) -> bool:
    """Train on another task, starting from what a run has learned (section 4.3).

    Args:
        run: the folder of the run to start from, or an agent's folder or name
            (docs/guide/agents.md).
        task: the task to adapt to, as for `train`; it observes and does the same things.
        logdir: the new run's folder.
        steps: env steps on the new task.
        runtime: as for `train`.
        listen: as for `train`.
        reward: as for `train`; with `relabel` it pays for the source's episodes too.
        force: as for `train`.
        progress: as for `train`.
        **settings: `transfer=TransferConfig(...)`, `skill_length`, `horizon`, `acting_horizon`,
            `prior_weight`, `plan_lambda`, `min_std`, `action_candidates`, `final_episodes`, and
            top-level settings such as `seed`.

    Returns:
        Whether `steps` was reached.

    Raises:
        UserError: where `train` raises it, and where nothing can be carried over.
    """
    name = task if isinstance(task, str) else task_name(task)
    config = transferred(expanded(run), name, logdir=expanded(logdir), **settings)
    call = (task, logdir, steps, runtime, listen)
    return train(*call, config=config, reward=reward, force=force, progress=progress)


def _begin(trainer: Trainer) -> None:
    """Carry over what a transfer starts from, or leave no folder behind."""
    try:
        begin(trainer)
    except BaseException:
        trainer.folder.discard()
        raise


def _settings(
    task: Config | Task, config: Config | None, reward: str | RewardFunction | None
) -> tuple[Config, Task, OwnReward | None]:
    """All settings, where environments come from, and what pays if it is not the task."""
    source: Task
    own = None if reward is None else own_reward(reward)
    if isinstance(task, Config):
        if config is not None:
            raise UserError("lsp.train: give the settings first or as config=..., not both")
        settings, source = task, task.task
    elif isinstance(task, str):
        settings, source = replace(config or make_config(), task=task), task
    else:
        settings = replace(config or make_config(), task=task_name(task))
        source = Maker(task)
    return settings if own is None else replace(settings, reward=own.name), source, own
