"""The commands that show what runs measured: `lsp plot` and `lsp collect`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from lsp.errors import UserError


@dataclass(frozen=True)
class Plot:
    """Draw learning curves: of runs, or of a folder of collected results such as
    results/walker_walk, beside published ones; and say where each ends.

    Below five seeds it is their mean, and the lowest to the highest; from five on the
    interquartile mean (IQM), and its 95 % bootstrap interval.
    """

    runs: Positional[tuple[Path, ...]]
    """Run folders, or one folder of results."""
    out: Path | None = None
    """The picture; without it curve.png in the first folder."""
    skills: bool = False
    """Draw the skill metrics of one run instead."""
    reference: Path | None = None
    """Published curves (results/reference/published.csv)."""
    x: Literal["steps", "hours"] = "steps"
    """Returns against env steps, or against hours of training."""

    def main(self) -> None:
        from lsp.report.plots import plot_results, plot_runs, plot_skills

        if not self.runs:
            raise UserError("nothing to plot: name at least one run's folder")
        first, several = self.runs[0], len(self.runs) > 1
        of_runs = (first / "config.json").exists()
        if several and (self.skills or not of_runs):
            what = "--skills draws one run" if self.skills else f"{first} is no run"
            raise UserError(f"{what}: name one folder")
        if self.reference is not None and (self.skills or of_runs):
            raise UserError("--reference is drawn beside a folder of results, not beside runs")
        if self.x == "hours" and (self.skills or self.reference is not None):
            what = "skill metrics" if self.skills else "published curves"
            raise UserError(f"{what} have no hours: leave out --x hours")
        out = self.out or first / ("skills.png" if self.skills else "curve.png")
        ends: list[str] = []
        if self.skills:
            plot_skills(first, out)
        elif of_runs:
            ends = plot_runs(list(self.runs), out, self.x)
        else:
            ends = plot_results(first, out, self.reference, self.x)
        print("\n".join([*ends, str(out)]))


@dataclass(frozen=True)
class Collect:
    """Collect the evaluations of runs into tables, OUT/TASK/METHOD.csv."""

    runs: Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path = Path("results")
    """Folder of the tables."""

    def main(self) -> None:
        from lsp.report.tables import collect

        if not self.runs:
            raise UserError("nothing to collect: name at least one run's folder")
        for path in collect(list(self.runs), self.out):
            print(path)
