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

from tyro.conf import Positional, arg

from lsp.cli.output import print_error
from lsp.config import Config, RuntimeConfig, TransferConfig, to_dict
from lsp.errors import UserError


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
        from lsp.runs.files import expanded
        from lsp.runs.folder import RunFolder
        from lsp.tasks import plain_name
        from lsp.training.progress import say, show_progress

        config, began = self.config, time.monotonic()
        name = f"{plain_name(config.task)}-{config.method}-{config.preset}-{config.seed}"
        logdir = expanded(self.logdir or Path("runs") / name)
        before = RunFolder(logdir).reached
        command = shlex.join([_program(), *sys.argv[1:]])
        try:
            with show_progress(self.steps) as show:
                reached = api.train(
                    config, logdir, self.steps, self.runtime, show, force=self.force
                )
        except BrokenPipeError:
            print_error(f"nobody reads the output: stopped and saved. To resume: {command}")
            raise
        say(f"{config.method} on {config.task} ({config.obs}), in {logdir}")
        if not reached:
            say(f"Stopped and saved. To resume: {command}")
            return
        if self.steps == 0 or before >= self.steps:
            say(_nothing_trained(before))
        self._report(logdir)
        say(f"Time: {(time.monotonic() - began) / 60:.1f} minutes")
        further = 2 * max(self.steps, before) or 100_000
        say(f"To continue: {_with_steps(sys.argv[1:], further, logdir)}")

    def _report(self, logdir: Path) -> None:
        """The last evaluation, and pictures where they can be made."""
        from lsp.report.plots import plot_runs, plot_skills
        from lsp.runs.folder import RunFolder
        from lsp.runs.metrics import read_metrics
        from lsp.training.progress import say

        folder = RunFolder(logdir)
        lines = read_metrics(logdir)
        evaluations = [line for line in lines if line.get("eval/return") is not None]
        if evaluations:
            last = evaluations[-1]
            say(
                f"Evaluation after {last['env_steps']} env steps: return "
                f"{last['eval/return']:.1f} ± {last['eval/std']:.1f} "
                f"over {last['eval/episodes']} episodes"
            )
        if evaluations or any("episode/return" in line for line in lines):
            plot_runs([logdir], folder.curve)
            say(f"Learning curve: {folder.curve}")
        if any("skills/log_q" in line for line in lines):
            plot_skills(logdir, folder.skills)
            say(f"Skills: {folder.skills}")
        if folder.open_loop.exists():
            say(f"Open-loop predictions: {folder.open_loop}")
        if self.video:
            _film(logdir, folder.video)


@dataclass(frozen=True)
class Transfer:
    """Train on another task, starting from what a run has learned; the same command resumes."""

    run: Positional[Path]
    """The run to start from, or an agent (`lsp agents`)."""
    task: str
    """The task to adapt to: one that is observed and acted in as the run's own."""
    steps: int = 100_000
    """Env steps on the new task."""
    logdir: Path | None = None
    """The new run's folder; without it runs/TASK-from-RUN, and what the flags change."""
    freeze_policy: bool = False
    """Neither policy nor χ learns any more (section 4.3): the run's own policy acts, on states of
    the run's own model. With --anchor 0 its weights are frozen instead."""
    relabel: bool = False
    """Start from the run's replay, relabelled with the new task's rewards (section 4.3)."""
    updates: int = 1000
    """With --relabel: updates before the first step, which leave the policy as it is."""
    keep_replay: bool = False
    """Half of each batch comes from the run's episodes, for the model alone."""
    anchor: float | None = None
    """Hold the policy to a slow copy of itself, by this weight of their KL (0.05 is a good one).
    Without it a policy that adapts is free."""
    anchor_steps: int | None = None
    """Env steps over which that weight falls to zero; without it stays."""
    anchor_rate: float | None = None
    """With --anchor: share of the policy that its copy takes over in each update; without it 0.005.
    0 holds the policy to what the run's own does."""
    new_share: float | None = None
    """With --relabel: share of each batch from the new task's own episodes, 0 as they come; without
    it 0.5."""
    reset: tuple[Literal["reward", "value"], ...] = ()
    """What is reset besides the optimisers: the reward head, the critic's output for the task."""
    reward: str | None = None
    """Your own reward, `package.module:function`, in place of the task's."""
    skill_length: int | None = None
    """K on the new task; without it the run's own."""
    horizon: int | None = None
    """H, agent steps planned on the new task; without it the run's own."""
    acting_horizon: int | None = None
    """Agent steps that plans look ahead while acting, under one skill; without it 50, or as in
    updates where K or H is given."""
    prior_weight: float | None = None
    """Weight of the prior of skills in a plan's score; without it 0.05 where skills are planned."""
    plan_lambda: float | None = None
    """λ of a plan's score; without it the policy's own, or 1 for a horizon beyond 15."""
    min_std: float | None = None
    """Least standard deviation of the policy; without it the run's own."""
    action_candidates: int | None = None
    """Sequences of actions planned around the policy at every agent step (128 in `modern`), 0 for
    none; without it the run's own."""
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
        from lsp.runs.files import expanded
        from lsp.tasks import plain_name

        name = f"{plain_name(self.task)}-from-{self.run.resolve().name}"
        name += variant(to_dict(self.transfer), self.reward)
        changed: dict[str, float | None] = {
            "k": self.skill_length,
            "h": self.horizon,
            "acting": self.acting_horizon,
            "prior": self.prior_weight,
            "lambda": self.plan_lambda,
            "minstd": self.min_std,
            "actions": self.action_candidates,
            "seed": self.seed,
        }
        name += "".join(f"-{key}{x}" for key, x in changed.items() if x is not None)
        return expanded(self.logdir or Path("runs") / name)

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
            anchor_rate=self.anchor_rate,
            new_share=self.new_share,
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
            acting_horizon=self.acting_horizon,
            prior_weight=self.prior_weight,
            plan_lambda=self.plan_lambda,
            min_std=self.min_std,
            action_candidates=self.action_candidates,
            final_episodes=self.final_episodes,
            reward=self.reward,
            **changes,
        )
        Train(config, self.steps, self.folder, self.video, self.force, self.runtime).main()


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
        from lsp.runs.agents import find_run
        from lsp.runs.files import file_to_write
        from lsp.runs.folder import RunFolder

        if self.runtime.track is not None:
            raise UserError("a benchmark is no run: leave out --track")
        written = None if self.json is None else file_to_write(self.json, "--json")
        prepare_torch(self.runtime)
        config, run = self.config, None if self.run is None else find_run(self.run)
        if run is not None:
            config = RunFolder(run).read_config()
            api.check_trust(RunFolder(run), config, None, self.trust)
        if self.sizes is not None:
            config = self._workload(self.sizes)
        report = bench(config, self.runtime, self.repeats, self.env_steps, run)
        print("\n".join(report.lines()))
        if written is not None:
            report.write(written)

    def _workload(self, sizes: str) -> Config:
        from lsp.benchmark.bench import workload

        if self.config.method != "dreamer" or self.run is not None:
            raise UserError(
                "--sizes measures Dreamer on fresh weights: use --method dreamer, no --run"
            )
        return workload(sizes, self.config.task)


@dataclass(frozen=True)
class Doctor:
    """What this machine offers: versions, graphics, threads, matrix units, disk."""

    def main(self) -> None:
        from lsp.cli.doctor import print_report

        print_report()


def _film(logdir: Path, video: Path) -> None:
    """After training, where the lack of a film must not look like a failure."""
    from lsp import api

    try:
        api.evaluate(logdir, episodes=1, video=video, trust=True)
        print(f"Video: {video}")
    except UserError as error:
        print(f"No video: {error}")


def _nothing_trained(before: int) -> str:
    """What a command did whose env steps were there already."""
    if before > 0:
        return f"Nothing was trained: the run has {before} env steps already, none are missing."
    return "Nothing was trained: settings and untrained weights are saved, and were evaluated."


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
