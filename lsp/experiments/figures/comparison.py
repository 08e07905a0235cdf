"""Methods over several tasks: where each stands, and how probably ours beats it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsp.experiments.figures.curves import (
    BETTER,
    STATISTICS,
    evaluations,
    number,
    partial_note,
    statistics_of,
    write_rows,
)
from lsp.experiments.figures.definitions import Curve, Target
from lsp.experiments.figures.evaluations import Records
from lsp.report import plots
from lsp.report.labels import color_of
from lsp.report.seeds import bands
from lsp.report.statistics import Estimate, Summary, probability_of_improvement, summary

OURS = "lsp"
HEADER = ("method", "tasks", "runs", *STATISTICS, *BETTER)


class Standing(NamedTuple):
    """Of a method: its finished runs and their tasks, what stands for their last returns, and the
    probability that a run of ours beats one of them; None without any."""

    tasks: int
    runs: int
    middle: Summary | None
    ours_better: Estimate | None


def write_comparison(target: Target, records: Records, out: Path) -> None:
    """A row for each line's label, over all panels, as CSV in `out` and Markdown beside it; and a
    picture of both, as PNG beside it. Intervals are stratified by task."""
    standings = {label: standing(target, label, records) for label in _labels(target)}
    note = partial_note(target, records)
    rows = [HEADER, *(_row(label, each) for label, each in standings.items())]
    write_rows(rows, out, note)
    figure = Figure(figsize=(10, 0.45 * len(standings) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_intervals(left, {k: x.middle for k, x in standings.items()}, "return, over all tasks")
    better = {label: x.ours_better for label, x in standings.items()}
    _draw_intervals(right, better, f"probability that {OURS} is better, 95 % interval")
    right.axvline(0.5, color="#999999", linewidth=0.8, zorder=0)
    right.set_xlim(0, 1)
    left.set_ylim(len(standings) - 0.5, -0.5)
    what = f"Where runs end, and how often {OURS} ends higher"
    note = bands(each.runs for each in standings.values())
    figure.suptitle(f"{what}\n{note}" if note else what, fontsize="medium")
    plots.save_figure(figure, out.with_suffix(".png"))


def standing(target: Target, label: str, records: Records) -> Standing:
    """Finished runs only: their last evaluations, compared with ours task by task."""
    last, ours, theirs = [], [], []
    for panel in dict.fromkeys(curve.panel for curve in target.curves):
        lines = {x.label: _returns(x, records) for x in target.curves if x.panel == panel}
        mine, seeds = lines.get(OURS, []), lines.get(label, [])
        if seeds:
            last.append(np.array(seeds))
        if seeds and mine and label != OURS:
            ours.append(np.array(mine))
            theirs.append(np.array(seeds))
    return Standing(
        len(last),
        sum(len(x) for x in last),
        summary(last) if last else None,
        probability_of_improvement(ours, theirs) if ours else None,
    )


def _returns(curve: Curve, records: Records) -> list[float]:
    """The last return of each finished run."""
    finished = tuple(run for run in curve.runs if records.finished(run))
    seeds = evaluations(replace(curve, runs=finished), records)
    return [float(values[-1]) for _, values in seeds]


def _labels(target: Target) -> Sequence[str]:
    return list(dict.fromkeys(curve.label for curve in target.curves))


def _row(label: str, each: Standing) -> tuple[str, ...]:
    middle = statistics_of(each.middle) if each.middle else [""] * len(STATISTICS)
    better = [number(float(x), 2) for x in each.ours_better or [np.nan] * len(BETTER)]
    return (label, str(each.tasks), str(each.runs), *middle, *better)


def _draw_intervals(
    axes: Axes, estimates: Mapping[str, Estimate | Summary | None], title: str
) -> None:
    for place, (label, estimate) in enumerate(estimates.items()):
        if estimate is None:
            continue
        color = color_of(label)
        axes.plot([estimate.low, estimate.high], [place] * 2, color=color, linewidth=6, alpha=0.3)
        axes.plot(estimate.value, place, "o", color=color)
    axes.set_yticks(range(len(estimates)), list(estimates))
    axes.set_xlabel(title)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
