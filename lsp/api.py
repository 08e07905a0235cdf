"""Training, loading and evaluating runs: what the command line and `import lsp` offer."""

from collections.abc import Callable
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import gymnasium

from lsp.backends.torch_setup import prepare_torch
from lsp.config import Config, RuntimeConfig, default_runtime, make_config, named_code, validated
from lsp.envs.custom import Maker, Task, task_name
from lsp.errors import UserError
from lsp.models.networks import Networks
from lsp.report.video import VideoWriter
from lsp.runs.checkpoint import load_newest
from lsp.runs.folder import RunFolder
from lsp.runs.spaces import spaces_of
from lsp.training import signals
from lsp.training.build import AnyAgent, AnyNetworks, build_agent, build_networks
from lsp.training.evaluation import Evaluation
from lsp.training.evaluation import evaluate as evaluate_networks
from lsp.training.parts import env_maker, open_run
from lsp.training.schedule import Progress
from lsp.training.trainer import Trainer
from lsp.training.transfer import begin, check, transferred


def train(
    task: Config | Task,
    logdir: str | Path,
    steps: int = 100_000,
    runtime: RuntimeConfig | None = None,
    listen: Callable[[Progress], None] = lambda progress: None,
    *,
    config: Config | None = None,
    force: bool = False,
) -> bool:
    """Train until `steps` env steps, evaluating and saving on the way; take up an earlier run.

    `task` is all settings at once; or a task's name, a Gymnasium environment (which is copied for
    training and evaluation, and stays as it is) or a function that makes one, with the other
    settings in `config`. SIGINT and SIGTERM save and return early. Returns whether `steps` was
    reached. With `force`, a run of other settings goes on with these, as far as they fit what it
    has learned.

    Raises UserError if a setting makes no sense, the task is unknown or none for LSP, `logdir`
    holds another run, is in use, damaged beyond what a run survives, or cannot be written.
    """
    if not isinstance(steps, Real) or not steps >= 0:  # NaN neither
        raise UserError(f"steps must be a number of at least 0, not {steps!r}")
    settings, source = _settings(task, config)
    runtime = runtime or default_runtime(settings.preset)
    prepare_torch(runtime)
    settings = validated(settings)
    folder, transfers = RunFolder(Path(logdir)), settings.transfer.source is not None
    if transfers and not folder.has_checkpoint:  # later the source may have gone away
        check(settings, source)  # before there is a folder
    trainer = Trainer(open_run(settings, folder, runtime, env_maker(settings, source), force))
    try:
        with signals.calling(trainer.stop, once=True):
            if transfers and trainer.fresh:
                _begin(trainer)
            trainer.run(steps, listen)
    finally:
        trainer.close()
    return trainer.env_steps >= steps


def transfer(
    run: str | Path,
    task: Task,
    logdir: str | Path,
    steps: int = 100_000,
    runtime: RuntimeConfig | None = None,
    listen: Callable[[Progress], None] = lambda progress: None,
    *,
    force: bool = False,
    **settings: Any,
) -> bool:
    """Train on `task`, starting from what the run in `run` has learned; otherwise as `train`.

    `settings` are those of `transferred` (lsp/training/transfer.py), such as
    `transfer=TransferConfig(...)`, `skill_length`, `horizon`, and top-level fields such as `seed`
    and `reward`.

    Raises UserError where `train` does, and where nothing can be carried over.
    """
    name = task if isinstance(task, str) else task_name(task)
    config = transferred(Path(run), name, logdir=Path(logdir), **settings)
    return train(task, logdir, steps, runtime, listen, config=config, force=force)


def _begin(trainer: Trainer) -> None:
    """Carry over what a transfer starts from, or leave no folder behind."""
    try:
        begin(trainer)
    except BaseException:
        trainer.folder.discard()
        raise


def _settings(task: Config | Task, config: Config | None) -> tuple[Config, Task]:
    """All settings, and where environments come from."""
    if isinstance(task, Config):
        if config is not None:
            raise UserError("lsp.train: give the settings first or as config=..., not both")
        return task, task.task
    config = config or make_config()
    if isinstance(task, str):
        return replace(config, task=task), task
    return replace(config, task=task_name(task)), Maker(task)


def load_networks(
    logdir: str | Path, device: str = "cpu", env: Task | None = None, trust: bool = False
) -> AnyNetworks:
    """The networks of a run's newest checkpoint. Raises UserError where there is none, where the
    task was passed from Python and `env` is not, where `env` is another task, and where the run
    names code to import and `trust` is false."""
    folder = RunFolder(Path(logdir))
    config = folder.read_config()
    check_trust(folder, config, env, trust)
    checkpoint = load_newest(folder.checkpoints)
    if checkpoint is None:
        raise UserError(f"{folder.path} has no checkpoint yet: train it first")
    made = _env_maker(config, env)()
    networks, spaces = build_networks(made, config, device), spaces_of(made)
    made.close()
    noted = folder.read_spaces()
    if noted is not None and not noted.fits(spaces):
        raise _not_its_task(folder, config, f": {noted} against {spaces}")
    try:
        networks.load_state_dict(checkpoint.tensors["networks"])
    except RuntimeError as error:
        raise _not_its_task(folder, config) from error
    return networks


def _not_its_task(folder: RunFolder, config: Config, spaces: str = "") -> UserError:
    return UserError(
        f"{folder.path} was trained on {config.task} with other observations or actions than this "
        f"environment's{spaces}: give the environment that it was trained on"
    )


def _runtime_of(networks: AnyNetworks) -> RuntimeConfig:
    return default_runtime(networks.config.preset, RuntimeConfig(device=str(networks.device)))


def check_trust(folder: RunFolder, config: Config, env: Task | None, trust: bool) -> None:
    """Raises UserError where a run names code, is not this user's own, and nobody said that it may
    be run: the modules that a stranger names may do anything."""
    named = named_code(config if env is None else replace(config, task=""))
    if named and not trust and not folder.is_own:
        raise UserError(
            f"{folder.path} names code that would be imported and run ({', '.join(named)}), and "
            "was not trained by you here: --trust, or trust=True, if you know it"
        )


def _env_maker(config: Config, env: Task | None) -> Callable[[], gymnasium.Env[Any, Any]]:
    """Makes environments for agents: those of the run's task, or of `env` in its place."""
    source: Task = config.task if env is None else env
    if not isinstance(source, str):
        source = Maker(source)
    return env_maker(config, source)


def load(
    logdir: str | Path,
    mode: Literal["collect", "evaluate"] = "evaluate",
    num_envs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    env: Task | None = None,
    trust: bool = False,
) -> AnyAgent:
    """The agent of a run: `agent.act(observation)`, `agent.reset()` when an episode begins.

    A run on a task that was passed from Python needs it again, as `env`; one that names your own
    code needs it, or `trust`.
    """
    networks = load_networks(logdir, device, env, trust)
    return build_agent(networks, mode, num_envs, seed, _runtime_of(networks))


def evaluate(
    logdir: str | Path,
    episodes: int = 10,
    video: Path | None = None,
    device: str = "cpu",
    env: Task | None = None,
    trust: bool = False,
    skills: Literal["planned", "prior"] | None = None,
) -> Evaluation:
    """Evaluate a run's newest checkpoint; film its first episode where `video` is given.

    `skills` are planned or drawn from N(0, I), whatever the run was trained with: what planning
    is worth to one set of weights.

    A run on a task that was passed from Python needs it again, as `env`; one that names your own
    code needs it, or `trust`.

    Raises UserError if there is no checkpoint, `env` is lacking, nothing can be rendered, or the
    method has no skills to choose from.
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, not {episodes}")
    networks = load_networks(logdir, device, env, trust)
    config = networks.config
    if skills is not None and not (isinstance(networks, Networks) and config.has_skills):
        raise UserError(f"{config.method} has no skills: leave out the choice of them")
    make, runtime = _env_maker(config, env), _runtime_of(networks)
    if video is None:
        return evaluate_networks(networks, make, episodes, config.seed, runtime, skills=skills)
    probe = make()
    frames_per_second = (probe.metadata.get("render_fps") or 30) / config.action_repeat
    probe.close()
    with VideoWriter(video, frames_per_second) as writer:
        return evaluate_networks(
            *(networks, make, episodes, config.seed, runtime, writer.add), skills=skills
        )
