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
from lsp.report.statistics import iqm, probability_of_improvement
from lsp.runs.files import write_text

STATISTICS = ("iqm", "low", "high", "lsp_better", "lsp_better_low", "lsp_better_high")
HEADER = ("panel", "curve", "seeds", "env_steps", "of", *STATISTICS)
_COLUMNS = 3
_MOST = 1000  # a thousand control steps that pay at most 1, in all of the paper's tasks
# Below the axes: many curves leave no empty corner.
_LEGEND: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": 2}
_STYLES = {"lsp, policy fixed": {"color": plots.COLORS["lsp-frozen"], "linestyle": "--"}}


def draw_curves(target: Target, records: Records, out: Path) -> None:
    """A panel for each task: IQM over seeds of the evaluations, with 95 % bootstrap intervals; on
    from where not all seeds are yet, a thin line for each; a dotted one for what does not count."""
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
        plots.finish(each, panel, **_LEGEND)
    figure.suptitle(f"{target.title}{partial_note(target, records)}")
    plots.save_figure(figure, out)


def partial_note(target: Target, records: Records) -> str:
    """What a title says where runs are missing or unfinished, or count for nothing."""
    runs = target.runs
    done, idle = sum(map(records.finished, runs)), sum(not records.counts(run) for run in runs)
    missing = "" if done == len(runs) else f"\npartial: {done} of {len(runs)} runs finished"
    return missing + (f"\nnot counted: {idle} from a source that learned nothing" if idle else "")


def write_table(target: Target, records: Records, out: Path) -> None:
    """`out` as CSV and, beside it, as Markdown: where each line stands at the last env step that
    all its seeds have, and how probably a run of lsp beats it there."""
    rows: list[tuple[str, ...]] = [HEADER]
    for curve in target.curves:
        lsp = next((x for x in target.curves if x.panel == curve.panel and x.label == "lsp"), None)
        rows.append(_row(curve, lsp, records))
    write_rows(rows, out, partial_note(target, records).strip())


def write_rows(rows: Sequence[Sequence[str]], out: Path, note: str = "") -> None:
    """A table, its header first, as CSV in `out` and as Markdown beside it, with a note below."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(out, text.getvalue())
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    write_text(out.with_suffix(".md"), "\n".join([*lines, *(["", note] if note else [])]) + "\n")


def evaluations(curve: Curve, records: Records) -> list[plots.Curve]:
    """Env steps and returns of each seed that has been evaluated, and counts."""
    counted = filter(records.counts, curve.runs)
    return [x for x in map(records.evaluations, counted) if x is not None]


def draw_line(axes: Axes, curve: Curve, records: Records) -> None:
    """One line of a panel."""
    seeds = evaluations(curve, records)
    style: dict[str, Any] = {"color": plots.color_of(curve.label)} | _STYLES.get(curve.label, {})
    apart = [x for run in curve.runs if not records.counts(run) and (x := records.evaluations(run))]
    dotted = style | {"linewidth": 0.8, "alpha": 0.6, "linestyle": ":"}
    for shown in apart:
        axes.plot(*shown, **dotted)
    if apart and not seeds:
        axes.plot([], [], label=f"{curve.label}: none counts", **dotted)
        return
    if not seeds:
        axes.plot([], [], color="#CCCCCC", label=f"{curve.label}: nothing yet")
        return
    steps, values = plots.over_seeds(seeds)
    label = f"{curve.label} ({len(seeds)} of {len(curve.runs)} seeds)"
    middle, last = (iqm([values.T]), steps[-1]) if steps.size else (None, 0)
    axes.plot(steps, middle.value if middle else [], label=label, marker="o", markersize=3, **style)
    if middle:
        band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
        axes.fill_between(steps, middle.low, middle.high, **band)
    for each, returns in seeds:
        beyond = each >= last
        axes.plot(each[beyond], returns[beyond], linewidth=0.8, alpha=0.6, **style)


def _set_range(axes: Axes, curves: Sequence[Curve], records: Records) -> None:
    """As far as the runs are to go; of returns, where there are none yet, what a task may pay."""
    axes.set_xlim(0, 1.02 * max(run.steps for curve in curves for run in curve.runs))
    if not any(records.evaluations(run) for curve in curves for run in curve.runs):
        axes.set_ylim(0, _MOST)


def _row(curve: Curve, lsp: Curve | None, records: Records) -> tuple[str, ...]:
    seeds = evaluations(curve, records)
    names = (curve.panel, curve.label, f"{len(seeds)}/{len(curve.runs)}")
    wanted = str(curve.runs[0].steps)
    steps, values = plots.over_seeds(seeds) if seeds else (np.empty(0), np.empty(0))
    if not steps.size:  # or none that all of them have
        return (*names, "0", wanted, *[""] * 6)
    middle = iqm([values[:, -1]])
    better = [""] * 3
    against = evaluations(lsp, records) if lsp is not None and lsp is not curve else []
    against = [seed for seed in against if seed[0][-1] >= 0.99 * steps[-1]]  # who got there
    if against:
        ours = at(against, steps[-1])
        better = [_text(float(x), 2) for x in probability_of_improvement([ours], [values[:, -1]])]
    return (*names, f"{steps[-1]:.0f}", wanted, *(_text(float(x), 1) for x in middle), *better)


def at(seeds: Sequence[plots.Curve], step: float) -> np.ndarray:
    """Each seed's value at an env step, linear between its evaluations."""
    return np.array([np.interp(step, steps, values) for steps, values in seeds])


def _text(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"
