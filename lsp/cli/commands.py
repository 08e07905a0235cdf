"""The commands of the command line: their flags, and what each does."""

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from lsp.config import Config, RuntimeConfig, TransferConfig, to_dict
from lsp.errors import UserError

OBSERVED = {"proprio": "proprioception", "pixels": "64×64 pixels"}


@dataclass(frozen=True)
class Train:
    """Train an agent; the same command again resumes where it stopped.

    `--preset` and `--method` choose the settings, which the flags below them then change.
    """

    config: Annotated[Config, arg(name="")]
    steps: int = 100_000
    """Env steps to train for, those of an earlier start included."""
    logdir: Path | None = None
    """The run's folder; without it runs/TASK-METHOD-PRESET-SEED."""
    video: bool = False
    """Film an episode at the end."""
    force: bool = False
    """Resume with these settings where the folder's run has others, as far as they fit."""
    runtime: Annotated[RuntimeConfig, arg(name="")] = field(default_factory=RuntimeConfig)

    def main(self) -> None:
        from lsp import api
        from lsp.tasks import plain_name
        from lsp.training.progress import show_progress

        config, began = self.config, time.monotonic()
        name = f"{plain_name(config.task)}-{config.method}-{config.preset}-{config.seed}"
        logdir = self.logdir or Path("runs") / name
        with show_progress(self.steps) as show:
            reached = api.train(config, logdir, self.steps, self.runtime, show, force=self.force)
        command = shlex.join([_program(), *sys.argv[1:]])
        print(f"{config.method} on {config.task} ({config.obs}), in {logdir}")
        if not reached:
            print(f"Stopped and saved. To resume: {command}")
            return
        self._report(logdir)
        print(f"Time: {(time.monotonic() - began) / 60:.1f} minutes")
        print(f"To continue: {_with_steps(sys.argv[1:], 2 * self.steps, logdir)}")

    def _report(self, logdir: Path) -> None:
        """The last evaluation, and pictures where they can be made."""
        from lsp.report.plots import plot_runs, plot_skills
        from lsp.runs.folder import RunFolder
        from lsp.runs.metrics import read_metrics

        folder = RunFolder(logdir)
        lines = read_metrics(logdir)
        evaluations = [line for line in lines if line.get("eval/return") is not None]
        if evaluations:
            last = evaluations[-1]
            print(
                f"Evaluation after {last['env_steps']} env steps: return "
                f"{last['eval/return']:.1f} ± {last['eval/std']:.1f} "
                f"over {last['eval/episodes']} episodes"
            )
        plot_runs([logdir], folder.curve)
        print(f"Learning curve: {folder.curve}")
        if any("skills/log_q" in line for line in lines):
            plot_skills(logdir, folder.skills)
            print(f"Skills: {folder.skills}")
        if folder.open_loop.exists():
            print(f"Open-loop predictions: {folder.open_loop}")
        if self.video:
            _film(logdir, folder.video)


@dataclass(frozen=True)
class Transfer:
    """Train on another task, starting from what a run has learned; the same command resumes."""

    run: Positional[Path]
    """The run to start from."""
    task: str
    """The task to adapt to: one that is observed and acted in as the run's own."""
    steps: int = 100_000
    """Env steps on the new task."""
    logdir: Path | None = None
    """The new run's folder; without it runs/TASK-from-RUN, and what the flags change."""
    freeze_policy: bool = False
    """Neither policy nor χ learns any more (section 4.3)."""
    relabel: bool = False
    """Start from the run's replay, relabelled with the new task's rewards (section 4.3)."""
    updates: int = 1000
    """With --relabel: updates before the first step, which leave the policy as it is."""
    keep_replay: bool = False
    """Half of each batch comes from the run's episodes, for the model alone."""
    anchor: float = 0.0
    """Hold the policy to what the run's own does, by this weight of their KL."""
    anchor_steps: int | None = None
    """Env steps over which that weight falls to zero; without it stays."""
    reset: tuple[Literal["reward", "value"], ...] = ()
    """What is reset besides the optimisers: the reward head, the critic's output for the task."""
    reward: str | None = None
    """Your own reward, `package.module:function`, in place of the task's."""
    skill_length: int | None = None
    """K on the new task; without it the run's own."""
    horizon: int | None = None
    """H, agent steps planned on the new task; without it the run's own."""
    prior_weight: float | None = None
    """Weight of the prior of skills in a plan's score; without it 0.05 where skills are planned."""
    plan_lambda: float | None = None
    """λ of a plan's score; without it the policy's own, or 1 for a horizon beyond 15."""
    min_std: float | None = None
    """Least standard deviation of the policy; without it the run's own."""
    final_episodes: int | None = None
    """Episodes of the evaluations at step 0 and at the end; without it the run's own."""
    seed: int | None = None
    """Without it the run's own."""
    video: bool = False
    """Film an episode at the end."""
    force: bool = False
    """Resume with these settings where the folder's run has others, as far as they fit."""
    runtime: Annotated[RuntimeConfig, arg(name="")] = field(default_factory=RuntimeConfig)

    @property
    def folder(self) -> Path:
        from lsp.report.tables import variant
        from lsp.tasks import plain_name

        name = f"{plain_name(self.task)}-from-{self.run.resolve().name}"
        name += variant(to_dict(self.transfer), self.reward)
        changed = {"k": self.skill_length, "h": self.horizon, "prior": self.prior_weight}
        changed |= {"lambda": self.plan_lambda, "minstd": self.min_std, "seed": self.seed}
        name += "".join(f"-{key}{x}" for key, x in changed.items() if x is not None)
        return self.logdir or Path("runs") / name

    @property
    def transfer(self) -> TransferConfig:
        return TransferConfig(
            freeze_policy=self.freeze_policy,
            relabel=self.relabel,
            updates=self.updates,
            reset=self.reset,
            keep_replay=self.keep_replay,
            anchor=self.anchor,
            anchor_steps=self.anchor_steps,
        )

    def main(self) -> None:
        from lsp.training.transfer import transferred

        changes: dict[str, Any] = {} if self.seed is None else {"seed": self.seed}
        config = transferred(
            self.run,
            self.task,
            self.transfer,
            self.skill_length,
            self.horizon,
            logdir=self.folder,
            prior_weight=self.prior_weight,
            plan_lambda=self.plan_lambda,
            min_std=self.min_std,
            final_episodes=self.final_episodes,
            reward=self.reward,
            **changes,
        )
        Train(config, self.steps, self.folder, self.video, self.force, self.runtime).main()


@dataclass(frozen=True)
class Eval:
    """Evaluate a run's newest checkpoint, without exploration."""

    run: Positional[Path]
    """The run's folder."""
    episodes: int = 10
    """How many episodes."""
    video: bool = False
    """Film the first one into the run's folder."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    trust: bool = False
    """Run the code that the run's settings name: a task or reward of your own."""
    skills: Literal["planned", "prior", "constant", "shuffled"] | None = None
    """Where skills come from, whatever the run was trained with: planned; from N(0, I); constant at
    the mean of what is planned; or what is planned in another episode at the same time."""

    def main(self) -> None:
        from lsp import api
        from lsp.backends.torch_setup import prepare_torch
        from lsp.runs.folder import RunFolder

        prepare_torch(RuntimeConfig(device=self.device))
        video = RunFolder(self.run).video if self.video else None
        outcome = api.evaluate(
            *(self.run, self.episodes, video, self.device), trust=self.trust, skills=self.skills
        )
        for number, total in enumerate(outcome.returns):
            print(f"episode {number}: return {total:.1f}, {outcome.lengths[number]} env steps")
        if outcome.success is not None:
            print(f"success {outcome.success.mean():.2f}")
        print(f"return {outcome.returns.mean():.1f} ± {outcome.returns.std():.1f}")
        if video:
            print(f"Video: {video}")


@dataclass(frozen=True)
class Bench:
    """How fast an update, acting and training are here, and what share of this machine's matrix
    units they use.

    `--preset` and `--method` choose the settings, which the flags below them then change.
    """

    config: Annotated[Config, arg(name="")]
    run: Path | None = None
    """Measure with the settings and weights of this run's newest checkpoint."""
    sizes: Literal["paper", "small"] | None = None
    """Measure Dreamer at the sizes of benchmarks/peers instead of a preset."""
    repeats: int = 20
    """Updates to time."""
    env_steps: int = 2000
    """Env steps to train end to end; 0 leaves that out."""
    json: Path | None = None
    """Write the figures and all settings here."""
    trust: bool = False
    """With --run: run the code that its settings name, a task or reward of your own."""
    runtime: Annotated[RuntimeConfig, arg(name="")] = field(default_factory=RuntimeConfig)

    def main(self) -> None:
        from lsp import api
        from lsp.backends.torch_setup import prepare_torch
        from lsp.benchmark.bench import bench
        from lsp.runs.folder import RunFolder

        if self.runtime.track is not None:
            raise UserError("a benchmark is no run: leave out --track")
        prepare_torch(self.runtime)
        config = self.config
        if self.run is not None:
            config = RunFolder(self.run).read_config()
            api.check_trust(RunFolder(self.run), config, None, self.trust)
        if self.sizes is not None:
            config = self._workload(self.sizes)
        report = bench(config, self.runtime, self.repeats, self.env_steps, self.run)
        print("\n".join(report.lines()))
        if self.json is not None:
            report.write(self.json)

    def _workload(self, sizes: str) -> Config:
        from lsp.benchmark.bench import workload

        if self.config.method != "dreamer" or self.run is not None:
            raise UserError(
                "--sizes measures Dreamer on fresh weights: use --method dreamer, no --run"
            )
        return workload(sizes, self.config.task)


@dataclass(frozen=True)
class Tasks:
    """List the tasks of the paper's experiments by their Gymnasium ids; `lsp train --task` takes
    their names, and those of all other dm_control tasks."""

    render: Path | None = None
    """Also draw the start of each task into this folder."""

    def main(self) -> None:
        from lsp.tasks import PAPER_TASKS, ids

        width = max(len(each.name) for each in ids())
        for name, task, obs in ids():
            print(f"{name:<{width}}  {PAPER_TASKS[task]}; from {OBSERVED[obs]}")
        if self.render is not None:
            _draw_tasks(self.render)


@dataclass(frozen=True)
class Doctor:
    """What this machine offers: versions, graphics, threads, matrix units, disk."""

    def main(self) -> None:
        from lsp.cli.doctor import print_report

        print_report()


def _draw_tasks(folder: Path) -> None:
    import imageio.v3

    from lsp.envs import make_env
    from lsp.runs.files import replacing
    from lsp.tasks import PAPER_TASKS

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from error
    for task in PAPER_TASKS:
        env = make_env(task)
        env.reset(seed=0)
        picture = folder / f"{task}.png"
        with replacing(picture) as new:
            imageio.v3.imwrite(new, np.asarray(env.render()))
        env.close()
        print(picture)


def _film(logdir: Path, video: Path) -> None:
    """After training, where the lack of a film must not look like a failure."""
    from lsp import api
    from lsp.envs import rendering_problem

    try:
        if problem := rendering_problem():
            raise UserError(problem)
        api.evaluate(logdir, episodes=1, video=video, trust=True)
        print(f"Video: {video}")
    except UserError as error:
        print(f"No video: {error}")


def _program() -> str:
    """How to call this program again: `make train` runs it without its folder on the PATH."""
    return "lsp" if shutil.which("lsp") or not sys.argv[0].endswith("lsp") else sys.argv[0]


def _with_steps(arguments: Sequence[str], steps: int, logdir: Path) -> str:
    """The same command with another number of steps."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--steps")
    parser.add_argument("--logdir")
    _, rest = parser.parse_known_args(arguments)
    return shlex.join([_program(), *rest, "--steps", str(steps), "--logdir", str(logdir)])
