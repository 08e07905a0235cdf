"""Learning curves of many runs, and the table of where they ended."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsp.experiments.figures.definitions import Curve, Target
from lsp.experiments.figures.evaluations import Records
from lsp.report import plots
from lsp.report.labels import COLORS, color_of
from lsp.report.seeds import Curve as SeedCurve
from lsp.report.seeds import bands, draw_seeds, over_seeds
from lsp.report.statistics import Summary, probability_of_improvement, summary
from lsp.runs.files import write_text

STATISTICS = ("statistic", "value", "low", "high")
BETTER = ("lsp_better", "lsp_better_low", "lsp_better_high")
HEADER = ("panel", "curve", "seeds", "env_steps", "of", *STATISTICS, *BETTER)
_COLUMNS = 3
_MOST = 1000  # a thousand control steps that pay at most 1, in all of the paper's tasks
# Below the axes: many curves leave no empty corner.
_LEGEND: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": 2}
_STYLES = {"lsp, policy fixed": {"color": COLORS["lsp-frozen"], "linestyle": "--"}}


def draw_curves(target: Target, records: Records, out: Path) -> None:
    """A panel for each task: the seeds' evaluations; on from where not all seeds are yet, a thin
    line for each; a dotted one for what does not count."""
    panels = list(dict.fromkeys(curve.panel for curve in target.curves))
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.4 * columns, 4.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for each in axes[len(panels) :]:
        each.remove()
    for panel, each in zip(panels, axes):
        shown = [curve for curve in target.curves if curve.panel == panel]
        for curve in shown:
            draw_line(each, curve, records)
        plots.mark_standing_still(each, shown[0].runs[0].config.task)
        _set_range(each, shown, records)
        counts = [len(evaluations(curve, records)) for curve in shown]
        plots.finish(each, panel, note=bands(counts), **_LEGEND)
    figure.suptitle(target.title)
    plots.save_figure(figure, out)


def partial_note(target: Target, records: Records) -> str:
    """What is said on the terminal and below tables where runs are missing or unfinished, or count
    for nothing."""
    runs = target.runs
    done, idle = sum(map(records.finished, runs)), sum(not records.counts(run) for run in runs)
    missing = [] if done == len(runs) else [f"partial: {done} of {len(runs)} runs finished"]
    return "; ".join(
        missing + ([f"not counted: {idle} from a source that learned nothing"] if idle else [])
    )


def write_table(target: Target, records: Records, out: Path) -> None:
    """`out` as CSV and, beside it, as Markdown: where each line stands at the last env step that
    all its seeds have, and how probably a run of lsp beats it there."""
    rows: list[tuple[str, ...]] = [HEADER]
    for curve in target.curves:
        lsp = next((x for x in target.curves if x.panel == curve.panel and x.label == "lsp"), None)
        rows.append(_row(curve, lsp, records))
    write_rows(rows, out, partial_note(target, records))


def write_rows(rows: Sequence[Sequence[str]], out: Path, note: str = "") -> None:
    """A table, its header first, as CSV in `out` and as Markdown beside it, with a note below."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(out, text.getvalue())
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    write_text(out.with_suffix(".md"), "\n".join([*lines, *(["", note] if note else [])]) + "\n")


def evaluations(curve: Curve, records: Records) -> list[SeedCurve]:
    """Env steps and returns of each seed that has been evaluated, and counts."""
    counted = filter(records.counts, curve.runs)
    return [x for x in map(records.evaluations, counted) if x is not None]


def draw_line(axes: Axes, curve: Curve, records: Records) -> None:
    """One line of a panel."""
    seeds = evaluations(curve, records)
    style: dict[str, Any] = {"color": color_of(curve.label)} | _STYLES.get(curve.label, {})
    apart = [x for run in curve.runs if not records.counts(run) and (x := records.evaluations(run))]
    dotted = style | {"linewidth": 0.8, "alpha": 0.6, "linestyle": ":"}
    idle = [f"{curve.label}, not counted: its source learned nothing", *[None] * len(apart)]
    for shown, label in zip(apart, idle):
        axes.plot(*shown, label=label, **dotted)
    if not seeds and not apart:
        axes.plot([], [], color="#CCCCCC", label=f"{curve.label}: nothing yet")
    if seeds:
        label = f"{curve.label} ({len(seeds)} seed{'s' * (len(seeds) > 1)})"
        draw_seeds(axes, seeds, label, markersize=3, **style)


def _set_range(axes: Axes, curves: Sequence[Curve], records: Records) -> None:
    """As far as the runs are to go; of returns, where there are none yet, what a task may pay."""
    axes.set_xlim(0, 1.02 * max(run.steps for curve in curves for run in curve.runs))
    if not any(records.evaluations(run) for curve in curves for run in curve.runs):
        axes.set_ylim(0, _MOST)


def _row(curve: Curve, lsp: Curve | None, records: Records) -> tuple[str, ...]:
    seeds = evaluations(curve, records)
    names = (curve.panel, curve.label, f"{len(seeds)}/{len(curve.runs)}")
    wanted = str(curve.runs[0].steps)
    steps, values = over_seeds(seeds) if seeds else (np.empty(0), np.empty(0))
    if not steps.size:  # or none that all of them have
        return (*names, "0", wanted, *[""] * len(STATISTICS + BETTER))
    better = [""] * len(BETTER)
    against = evaluations(lsp, records) if lsp is not None and lsp is not curve else []
    against = [seed for seed in against if seed[0][-1] >= 0.99 * steps[-1]]  # who got there
    if against:
        ours = at(against, steps[-1])
        found = probability_of_improvement([ours], [values[:, -1]])
        better = [number(float(x), 2) for x in found]
    told = statistics_of(summary([values[:, -1]]))
    return (*names, f"{steps[-1]:.0f}", wanted, *told, *better)


def statistics_of(found: Summary) -> list[str]:
    """The columns STATISTICS."""
    return [found.statistic, *(number(float(x), 1) for x in found[:3])]


def at(seeds: Sequence[SeedCurve], step: float) -> np.ndarray:
    """Each seed's value at an env step, linear between its evaluations."""
    return np.array([np.interp(step, steps, values) for steps, values in seeds])


def number(value: float, digits: int) -> str:
    """As text; empty where there is none."""
    return "" if np.isnan(value) else f"{value:.{digits}f}"
