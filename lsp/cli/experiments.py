"""The commands that carry out many runs, `lsp sweep` and `lsp reproduce`, and those that look
into one: `lsp skills` and `lsp foresee`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, Suppress, arg

from lsp.config import Config, RuntimeConfig
from lsp.errors import UserError
from lsp.experiments.sweep.execution import Execution
from lsp.experiments.sweep.planned_run import Outcome


@dataclass(frozen=True)
class Sweep:
    """Train every task with every method and seed; the same command again does what is missing.

    `--task` and `--method` take lists, `walker_walk,cheetah_run`, and so does every other setting
    of `lsp train` but the preset: `--planner.horizon 5,10`. All lists are crossed. A comma
    separates alternatives and a space the members of one, `--policy.layers 400 400,64 64`; a
    switch takes true,false; `\\,` is a comma inside a value.
    """

    config: Annotated[Config, arg(name="")]
    seeds: str = "0"
    """Such as 0-4, or 0,3,7; in place of --seed."""
    steps: int = 100_000
    """Env steps of each run."""
    execution: Annotated[Execution, arg(name="")] = field(default_factory=Execution)
    runtime: Annotated[RuntimeConfig, arg(name="")] = field(default_factory=RuntimeConfig)
    configs: Suppress[tuple[Config, ...]] = ()
    """The settings once for each method and combination of settings."""

    def main(self) -> None:
        from lsp.envs.dmc import split_task
        from lsp.experiments.sweep.estimate import listing
        from lsp.experiments.sweep.planned_run import grid, parse_seeds

        if self.config.seed != Config.seed:
            raise UserError("a sweep takes --seeds, such as 0-4, in place of --seed")
        tasks = self.config.task.split(",")
        for task in (each for each in tasks if ":" not in each):
            split_task(task)  # before any of them is trained
        runs = grid(self.configs, tasks, parse_seeds(self.seeds), self.steps)
        execution = self.execution
        if execution.dry_run:
            jobs = execution.at_once
            print("\n".join(listing(runs, execution.storage, jobs, self.runtime)))
            return
        _exit_unless_done(execution.carry_out(runs, self.runtime))


@dataclass(frozen=True)
class Reproduce:
    """A figure of the paper: train what is missing of its runs, then draw it and write its table.

    Figures share their runs. What is not finished is drawn as far as it is, and said here. Below
    five seeds curves are their mean, lowest and highest; from five on the interquartile mean (IQM)
    and its 95 % bootstrap interval.
    """

    target: Positional[str] = ""
    """methods, fig1, fig4, fig5, fig6b, fig7, fig8, fig9, fig10 or all."""
    scale: str = "small"
    """`paper` (its steps, three seeds, preset paper) or `small` (hours of two cores)."""
    seeds: str | None = None
    """Such as 0-4; without it the scale's own."""
    run: bool = True
    """--no-run only draws what is there."""
    out: Path | None = None
    """Folder of figures and tables; without it figures/ in the storage."""
    tables: Path | None = None
    """Tables of `lsp collect`, such as results: drawn where they go further than a run's folder."""
    execution: Annotated[Execution, arg(name="")] = field(default_factory=Execution)
    runtime: Annotated[RuntimeConfig, arg(name="")] = field(default_factory=RuntimeConfig)

    def main(self) -> None:
        from lsp.experiments.figures.evaluations import Records
        from lsp.experiments.figures.reproduce import (
            draw,
            find_scale,
            find_targets,
            report,
            runs_of,
        )
        from lsp.experiments.sweep.estimate import listing
        from lsp.experiments.sweep.planned_run import parse_seeds

        scale, execution = find_scale(self.scale), self.execution
        if self.seeds is not None:
            scale = replace(scale, seeds=tuple(parse_seeds(self.seeds)))
        targets = find_targets(self.target, scale)
        runs = runs_of(targets)
        if execution.dry_run:
            jobs = execution.at_once
            print("\n".join(listing(runs, execution.storage, jobs, self.runtime)))
            return
        # Before hours of training: what it draws from must be there, and where it draws to.
        records = Records(execution.storage, self.tables)
        out = self.out or execution.storage / "figures"
        out.mkdir(parents=True, exist_ok=True)
        outcome = Outcome({}, False)
        if self.run:
            outcome = execution.carry_out(runs, self.runtime)
        if not outcome.stopped:
            for each, picture in zip(targets, draw(targets, records, out)):
                print("\n".join(report(each, records, picture)))
        _exit_unless_done(outcome)


@dataclass(frozen=True)
class Skills:
    """Hold skills of a run's newest checkpoint from one start: a picture, a film of each, and how
    far apart they end, beside repeats of one skill."""

    run: Positional[Path]
    """The run's folder, or an agent (`lsp agents`)."""
    hold: int = 40
    """Agent steps that each skill is held."""
    grid: int = 9
    """How many skills: a square number."""
    repeats: int = 3
    """Rollouts of each skill, with other noise."""
    out: Path | None = None
    """Folder to write into; without it held_skills/ in the run's, or of an agent in pictures/."""
    trust: bool = False
    """Run the code that the run's settings name: a task or reward of your own."""

    def main(self) -> None:
        from lsp.backends.torch_setup import prepare_torch
        from lsp.experiments.skills.report import show_skills, summary

        prepare_torch(RuntimeConfig())
        report = show_skills(
            *(self.run, self.out),
            hold_steps=self.hold,
            grid=self.grid,
            repeats=self.repeats,
            trust=self.trust,
        )
        for path in report.files:
            print(path)
        if report.no_pictures:
            print(f"No pictures: {report.no_pictures}")
        print(summary(report.held))


@dataclass(frozen=True)
class Foresee:
    """Whether what a run's policy imagines comes true: its imagined actions are carried out in the
    simulator (tried), and beside them the agent acts there on what it sees (acted)."""

    run: Positional[Path]
    """The run's folder, or an agent (`lsp agents`)."""
    starts: int = 12
    """Episodes, each of which gives a state to begin from."""
    after: int = 40
    """Agent steps of an episode until that state."""
    steps: int = 60
    """Agent steps that are imagined."""
    trust: bool = False
    """Run the code that the run's settings name: a task or reward of your own."""

    def main(self) -> None:
        from lsp.backends.torch_setup import prepare_torch
        from lsp.experiments.foresight import foresee, table

        prepare_torch(RuntimeConfig())
        found = foresee(
            self.run,
            starts=self.starts,
            after=self.after,
            steps=self.steps,
            trust=self.trust,
        )
        print("\n".join(table(found)))


def _exit_unless_done(outcome: Outcome) -> None:
    """Exit code 1 where runs failed, or were stopped."""
    if outcome.stopped:
        print("Stopped and saved. The same command resumes.")
    if outcome.stopped or outcome.failed:
        raise SystemExit(1)
