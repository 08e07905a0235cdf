"""Figures: learning curves of runs, their skills, and results against published curves."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lsp.errors import UserError
from lsp.report.tables import TRANSFERS, RecordedRun, read_run, read_table
from lsp.runs.files import write_bytes

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = {
    "lsp": "#0072B2",
    "lsp-frozen": "#004C73",
    "dreamer": "#D55E00",
    "random_skills": "#009E73",
    "no_mi": "#CC79A7",
    "rand_skills_init": "#E69F00",
    "hiro": "#56B4E9",
    "cem": "#7F3C8D",
}
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
_REFERENCE_COLORS = ("#555555", "#8C8C8C", "#B3A36B", "#7B8FA6")
_DASHES = ("--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2)))

Curve = tuple[np.ndarray, np.ndarray]


def plot_runs(runs: Sequence[Path], out: Path) -> None:
    """Draw evaluation returns (mean ± std over episodes) over faint training episodes.

    One panel a task, one colour a method.

    Args:
        runs: run folders.
        out: the picture to write; its ending chooses the format (.png, .pdf, .svg).

    Raises:
        UserError: a folder is not a run's, none has a finished episode, or `out` is no picture.
    """
    read = [read_run(folder) for folder in runs]
    if not any(run.lines("eval") or run.lines("episode") for run in read):
        raise UserError(f"{', '.join(map(str, runs))}: no episode has ended yet, nothing to plot")
    tasks = sorted({run.task for run in read})
    figure = Figure(figsize=(6 * len(tasks), 4), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks):
        for run in read:
            if run.task == task:
                _draw_run(axes, run)
        axes.plot([], [], color="#999999", linewidth=0.8, label="training episodes")
        mark_standing_still(axes, task)
        finish(axes, task)
    save_figure(figure, out)


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


def plot_results(folder: Path, out: Path, reference: Path | None = None) -> None:
    """Draw a task's committed tables, and published curves up to the same number of env steps; or
    the tables of transfers to it.

    Each curve is the mean over seeds, its band their minimum and maximum, where all seeds have
    values.

    Args:
        folder: results/<task>, with one table a method, or transfer_from_<source> in it.
        out: the picture to write.
        reference: CSV of published curves: algorithm,task,obs,env_steps,seed,score,source.

    Raises:
        UserError: `folder` holds no table, or a file is not what it should be.
    """
    tables = {path.stem: read_table(path) for path in sorted(folder.glob("*.csv"))}
    rows = [
        row | {"method": method, "variant": _variant(row)}
        for method, table in tables.items()
        for row in table
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
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    last = max(int(row["env_steps"]) for row in rows)
    if reference is not None:
        observed = {row["obs"] for row in rows}
        _draw_reference(axes, _read_reference(reference, task, observed), last)
    ours = _seed_curves(rows, ("method", "variant"), "eval_return")
    variants = Counter(variant for _, variant in sorted(ours)).most_common()
    dashes = dict(zip((variant for variant, _ in variants), itertools.cycle(("-", *_DASHES))))
    for (method, variant), seeds in ours.items():
        label = f"{method} ({variant}, {_count(len(seeds), 'seed')})"
        style = dashes[variant]
        _draw_seeds(axes, seeds, label, color_of(method), linestyle=style, zorder=3, markersize=4)
    axes.set_xlim(0, last * 1.02)
    mark_standing_still(axes, task)
    # Beside the axes: the published curves leave no empty corner.
    finish(axes, title, loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(figure, out)


def _variant(row: dict[str, str]) -> str:
    """What tells curves of a method apart."""
    text = f"{row['obs']}, {row['preset']}"
    if row.get("source_steps"):
        text += f", after {int(row['source_steps']):,}"
    if row.get("skill_length"):
        text += f", K {row['skill_length']}, H {row['horizon']}"
    return text


def _draw_run(axes: Axes, run: RecordedRun) -> None:
    name = run.table.stem  # lsp-frozen
    color = color_of(name)
    episodes = run.lines("episode")
    axes.plot(*curve(episodes, "episode/return"), color=color, alpha=0.25, linewidth=0.8, zorder=1)
    evaluations = run.lines("eval")
    steps, mean = curve(evaluations, "eval/return")
    std = np.nan_to_num(curve(evaluations, "eval/std")[1])
    axes.plot(steps, mean, color=color, marker="o", markersize=4, label=name, zorder=3)
    axes.fill_between(steps, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)


def _draw_metrics(axes: Axes, lines: list[dict[str, Any]], labels: dict[str, str]) -> None:
    measured = {key: label for key, label in labels.items() if any(key in x for x in lines)}
    colors = (COLORS["lsp"], COLORS["dreamer"], "#009E73")
    for (key, label), color in zip(measured.items(), colors):
        axes.plot(*curve(lines, key), color=color, linewidth=1.3, label=label)
    axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)


def curve(lines: Iterable[dict[str, Any]], key: str) -> Curve:
    """Env steps and values of one metric; a null is a gap in the curve."""
    points = sorted((line["env_steps"], line[key]) for line in lines if line.get(key) is not None)
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values


def _seed_curves(
    rows: list[dict[str, str]], keys: tuple[str, ...], value: str
) -> dict[tuple[str, ...], list[Curve]]:
    """The rows grouped by `keys`, one curve a seed."""
    seeds: dict[tuple[tuple[str, ...], str], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row[value]:
            group = tuple(row[key] for key in keys)
            seeds[group, row["seed"]].append((float(row["env_steps"]), float(row[value])))
    curves: dict[tuple[str, ...], list[Curve]] = defaultdict(list)
    for (group, _), points in sorted(seeds.items()):
        steps, values = np.array(sorted(points)).T
        curves[group].append((steps, values))
    return dict(curves)


def over_seeds(seeds: list[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Env steps where every seed has values `[steps]`, and the values there `[seeds, steps]`."""
    first = max(steps[0] for steps, _ in seeds)
    last = min(steps[-1] for steps, _ in seeds)
    grid = np.unique(np.concatenate([steps for steps, _ in seeds]))
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in seeds])


def _draw_seeds(
    axes: Axes, seeds: list[Curve], label: str, color: str, band: float = 0.15, **line: Any
) -> None:
    """The seeds' mean as a line, their minimum and maximum as a band of opacity `band`."""
    steps, values = over_seeds(seeds)
    axes.plot(steps, values.mean(0), color=color, label=label, marker="o", **line)
    if len(seeds) > 1:
        low, high = values.min(0), values.max(0)
        axes.fill_between(steps, low, high, color=color, alpha=band, linewidth=0, zorder=1)


def _draw_reference(axes: Axes, rows: list[dict[str, str]], last: int) -> None:
    """One colour an algorithm, one kind of dashes a source."""
    groups = _seed_curves(rows, ("algorithm", "obs", "source"), "score")
    algorithms = sorted({algorithm for algorithm, _, _ in groups})
    sources = sorted({source for _, _, source in groups})
    colors = dict(zip(algorithms, itertools.cycle(_REFERENCE_COLORS)))
    dashes = dict(zip(sources, itertools.cycle(_DASHES)))
    for (algorithm, obs, source), seeds in groups.items():
        # One point past the end, so that the line reaches it.
        clipped = [_until(curve, last) for curve in seeds]
        label = f"{algorithm}, published ({obs}, {source}, {_count(len(seeds), 'seed')})"
        style = {"linestyle": dashes[source], "linewidth": 1.2, "markersize": 2.5}
        _draw_seeds(axes, clipped, label, colors[algorithm], band=0.06, zorder=2, **style)


def _until(curve: Curve, last: int) -> Curve:
    steps, values = curve
    end = int(np.searchsorted(steps, last)) + 1
    return steps[:end], values[:end]


def _read_reference(path: Path, task: str, observed: set[str]) -> list[dict[str, str]]:
    """The published rows of a task, from the same kinds of observation as ours."""
    needed = {"algorithm", "task", "obs", "env_steps", "seed", "score", "source"}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not needed <= set(reader.fieldnames or ()):
                raise UserError(f"{path} lacks columns: it needs {', '.join(sorted(needed))}")
            rows = [row for row in reader if row["task"] == task and row["obs"] in observed]
            for row in rows:
                float(row["env_steps"]), float(row["score"])
            return rows
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check the path") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} holds no published curves ({error})") from error


def color_of(method: str) -> str:
    """Of a method, whatever else its table's name says of a transfer."""
    return COLORS.get(re.sub("-(relabel|reset|paid-by).*", "", method), _OTHER_COLOR)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def mark_standing_still(axes: Axes, task: str) -> None:
    """A line where a return shows locomotion; nothing for tasks that pay only for moving."""
    if task in STANDING_STILL:
        height, dashes = STANDING_STILL[task], (0, (2, 2))
        axes.axhline(height, color="#BBBBBB", linestyle=dashes, label="standing still")


def finish(axes: Axes, title: str, ylabel: str = "return", **legend: Any) -> None:
    """Title, labels, grid, and a legend with one entry a label."""
    axes.set_title(title)
    axes.set_xlabel("env steps")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k, 1M
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    entries = dict(zip(labels, handles))
    if entries:
        axes.legend(entries.values(), entries.keys(), frameon=False, fontsize="small", **legend)


def save_figure(figure: Figure, out: Path) -> None:
    """Write in one step: a crash never leaves half a picture."""
    kind = out.suffix.lstrip(".") or "no ending"
    if kind not in figure.canvas.get_supported_filetypes():
        raise UserError(f"cannot draw {out}: pictures end in .png, .pdf or .svg, not in {kind}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, dpi=150)
        write_bytes(out, drawn.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): choose another place") from error
