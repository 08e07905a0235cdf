"""Figures: learning curves of runs, their skills, and results against published curves."""

from __future__ import annotations

import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lsp.errors import UserError
from lsp.report.labels import COLORS, colors_of, label_rows, label_runs
from lsp.report.published import DASHES, draw_published, read_published
from lsp.report.seeds import Curve, Unit, bands, curve, draw_seeds, seed_curves, standing
from lsp.report.tables import TRANSFERS, RecordedRun, read_run, read_table
from lsp.runs.files import write_bytes

# Returns that show no locomotion (docs/guide/tasks.md): on its feet at the start, a whole episode.
STANDING_STILL = {
    "quadruped_walk": 500,
    "quadruped_run": 500,
    "quadruped_getup_walk": 500,
    "quadruped_upright_walk": 500,
    "quadruped_obstacles_walk": 500,
    "quadruped_reach": 312,
    "quadruped_getup_reach": 312,
    "quadruped_obstacles_reach": 312,
    "quadruped_line": 438,
}
_OTHER_COLOR = "#000000"


def plot_runs(runs: Sequence[Path], out: Path, unit: Unit = "steps") -> list[str]:
    """Draw evaluation returns over faint training episodes.

    One panel a task; one curve and colour for runs of the same settings, whatever their seeds: of
    one run its mean ± std over episodes, of several the summary of their means.

    Args:
        runs: run folders.
        out: the picture to write; its ending chooses the format (.png, .pdf, .svg).
        unit: returns against env steps, or against hours of training, without the episodes.

    Returns:
        Where each curve ends, in one line each.

    Raises:
        UserError: a folder is not a run's, none has a finished episode, or `out` is no picture.
    """
    read = [read_run(folder) for folder in runs]
    if not any(_has_points(run, unit) for run in read):
        raise UserError(f"{', '.join(map(str, runs))}: no episode has ended yet, nothing to plot")
    tasks = sorted({run.task for run in read})
    figure = Figure(figsize=(6 * len(tasks), 4), layout="constrained")
    ends = []
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks):
        ends += _draw_runs(axes, [run for run in read if run.task == task], unit)
        mark_standing_still(axes, task)
    save_figure(figure, out)
    return ends


def plot_skills(run: Path, out: Path) -> None:
    """Draw whether a run's skills are real: mutual information, log q, effect against noise.

    Raises:
        UserError: `run` is not a run's folder or its method has no skills.
    """
    lines = read_run(run).lines("train")
    if not any(key.startswith("skills/") for line in lines for key in line):
        raise UserError(f"{run} has no skill metrics: its method has no skills, or it just began")
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    information, log_q, effect = figure.subplots(1, 3)
    _draw_metrics(
        information,
        lines,
        {
            "skills/mutual_information_prior": "z from N(0, I), given the start",
            "skills/mutual_information_prior_forward": "z from N(0, I), forward estimator",
            "skills/mutual_information": "planned z, against the batch",
            "skills/mutual_information_given_start": "planned z, given the start",
        },
    )
    finish(information, "mutual information, estimated", "nats")
    _draw_metrics(log_q, lines, {"skills/log_q": "log q(z | states, start)"})
    finish(log_q, "backward skill predictor", "nats")
    _draw_metrics(
        effect,
        lines,
        {
            "skills/effect": "over skills, noise fixed (effect)",
            "skills/noise": "over noise, skill fixed",
        },
    )
    finish(effect, "spread of imagined returns", "standard deviation of the return")
    save_figure(figure, out)


def plot_results(
    folder: Path, out: Path, reference: Path | None = None, unit: Unit = "steps"
) -> list[str]:
    """Draw a task's committed tables, and published curves up to the same number of env steps; or
    the tables of transfers to it.

    Args:
        folder: results/<task>, with one table a method, or transfer_from_<source> in it.
        out: the picture to write.
        reference: CSV of published curves: algorithm,task,obs,env_steps,seed,score,source.
        unit: returns against env steps, or against hours of training.

    Returns:
        Where each curve ends, in one line each.

    Raises:
        UserError: `folder` holds no table, or a file is not what it should be, or has no hours.
    """
    tables = {path.stem: read_table(path) for path in sorted(folder.glob("*.csv"))}
    named = [(method, row) for method, table in tables.items() for row in table]
    rows = [
        row | {"label": label, "variant": _variant(row)}
        for label, (_, row) in zip(label_rows(named), named)
    ]
    if not rows:
        below = sorted(str(each) for each in folder.glob(f"{TRANSFERS}*"))
        instead = (
            f"draw {' or '.join(below)}" if below else f"lsp collect RUN --out {folder.parent}"
        )
        raise UserError(f"{folder} holds no results of a run that began there: {instead}")
    task, title = folder.name, folder.name
    if task.startswith(TRANSFERS):
        task = folder.parent.name
        title = f"{folder.name.removeprefix(TRANSFERS)} → {task}"
    ours = seed_curves(rows, ("label", "variant"), "eval_return", unit)
    if not ours:
        raise UserError(f"the tables in {folder} have no returns against {unit}")
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    last = max(steps[-1] for seeds in ours.values() for steps, _ in seeds)
    counts = [len(seeds) for seeds in ours.values()]
    if reference is not None:
        published = read_published(reference, task, {row["obs"] for row in rows})
        counts += draw_published(axes, published, int(last))
    ends = _draw_tables(axes, ours, unit)
    axes.set_xlim(0, last * 1.02)
    mark_standing_still(axes, task)
    # Beside the axes: the published curves leave no empty corner.
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    finish(axes, title, unit=unit, note=bands(counts), **beside)
    save_figure(figure, out)
    return ends


def _draw_tables(axes: Axes, curves: dict[tuple[str, ...], list[Curve]], unit: Unit) -> list[str]:
    """One colour a method and its settings, one kind of dashes a variant; returns where each curve
    ends."""
    colors = colors_of(label for label, _ in curves)
    variants = Counter(variant for _, variant in sorted(curves)).most_common()
    dashes = dict(zip((variant for variant, _ in variants), itertools.cycle(("-", *DASHES))))
    ends = []
    for (name, variant), seeds in curves.items():
        label = f"{name} ({variant}, {_count(len(seeds), 'seed')})"
        draw_seeds(axes, seeds, label, colors[name], linestyle=dashes[variant], zorder=3)
        ends.append(standing(label, seeds, unit))
    return ends


def _variant(row: dict[str, str]) -> str:
    """What tells curves of a method apart."""
    text = f"{row['obs']}, {row['preset']}"
    if row.get("source_steps"):
        text += f", after {int(row['source_steps']):,}"
    if row.get("skill_length"):
        text += f", K {row['skill_length']}, H {row['horizon']}"
    return text


def _has_points(run: RecordedRun, unit: Unit) -> bool:
    episodes = unit == "steps" and bool(run.lines("episode"))
    return episodes or curve(run.lines("eval"), "eval/return", unit)[0].size > 0


def _draw_runs(axes: Axes, runs: Sequence[RecordedRun], unit: Unit) -> list[str]:
    """The panel of a task; returns where each curve ends."""
    groups: dict[str, list[RecordedRun]] = defaultdict(list)
    for label, run in zip(label_runs(runs), runs):
        groups[label].append(run)
    colors, ends, counts = colors_of(groups), [], []
    for label, group in groups.items():
        if unit == "steps":
            for run in group:
                _draw_episodes(axes, run, colors[label])
        seeds = [curve(run.lines("eval"), "eval/return", unit) for run in group]
        seeds = [each for each in seeds if each[0].size]
        counts.append(len(seeds))
        if seeds:
            called = label if len(seeds) == 1 else f"{label} ({len(seeds)} runs)"
            draw_seeds(axes, seeds, called, colors[label], zorder=3)
            ends.append(standing(label, seeds, unit))
        if len(seeds) == 1:
            _draw_spread(axes, seeds[0], group, colors[label], unit)
    if unit == "steps":
        axes.plot([], [], color="#999999", linewidth=0.8, label="training episodes")
    alone = ["one run: mean ± std over episodes"] if 1 in counts else []
    note = "\n".join([*alone, *([bands(counts)] if bands(counts) else [])])
    finish(axes, runs[0].task, unit=unit, note=note)
    return ends


def _draw_episodes(axes: Axes, run: RecordedRun, color: str) -> None:
    episodes = curve(run.lines("episode"), "episode/return")
    axes.plot(*episodes, color=color, alpha=0.25, linewidth=0.8, zorder=1)


def _draw_spread(
    axes: Axes, mean: Curve, group: Sequence[RecordedRun], color: str, unit: Unit
) -> None:
    """The standard deviation over episodes of a lone run."""
    steps, returns = mean
    lines = [line for run in group for line in run.lines("eval")]
    std = np.interp(steps, *curve(lines, "eval/std", unit))
    ends = returns - std, returns + std
    axes.fill_between(steps, *ends, color=color, alpha=0.15, linewidth=0)


def _draw_metrics(axes: Axes, lines: list[dict[str, Any]], labels: dict[str, str]) -> None:
    measured = {key: label for key, label in labels.items() if any(key in x for x in lines)}
    colors = (COLORS["lsp"], COLORS["dreamer"], "#009E73", "#CC79A7")
    for (key, label), color in zip(measured.items(), colors):
        steps, values = curve(lines, key)
        alone = "o" if len(values) == 1 else None  # a line of one point is not seen
        axes.plot(steps, values, color=color, linewidth=1.3, marker=alone, label=label)
    axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def mark_standing_still(axes: Axes, task: str) -> None:
    """A line where a return shows locomotion; nothing for tasks that pay only for moving."""
    if task in STANDING_STILL:
        height, dashes = STANDING_STILL[task], (0, (2, 2))
        axes.axhline(height, color="#BBBBBB", linestyle=dashes, label="standing still")


def finish(
    axes: Axes,
    title: str,
    ylabel: str = "return",
    unit: Unit = "steps",
    note: str = "",
    **legend: Any,
) -> None:
    """Title, labels, grid, and a legend with one entry a label, under a note on all of them."""
    axes.set_title(title)
    axes.set_ylabel(ylabel)
    axes.set_xlabel("env steps" if unit == "steps" else "hours of training")
    if unit == "steps":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k, 1M
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    entries = dict(zip(labels, handles))
    if entries:
        style: dict[str, Any] = {"frameon": False, "fontsize": "small"}
        style |= {"title_fontsize": "small"} | legend
        axes.legend(entries.values(), entries.keys(), title=note, alignment="left", **style)


def save_figure(figure: Figure, out: Path, dpi: int = 150) -> None:
    """Write in one step: a crash never leaves half a picture."""
    kind = out.suffix.lstrip(".") or "no ending"
    if kind not in figure.canvas.get_supported_filetypes():
        raise UserError(f"cannot draw {out}: pictures end in .png, .pdf or .svg, not in {kind}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, dpi=dpi)
        write_bytes(out, drawn.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): choose another place") from error
