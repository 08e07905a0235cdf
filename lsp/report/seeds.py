"""Curves of several seeds: where all of them have values, and how they are drawn and told.

What stands for several seeds is `lsp.report.statistics.summary`, in pictures as in text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from lsp.report.statistics import FEW, Summary, summary

Curve = tuple[np.ndarray, np.ndarray]
"""Env steps, or hours of training, and values there; `[points]` each."""

Unit = Literal["steps", "hours"]
COLUMNS: dict[Unit, str] = {"steps": "env_steps", "hours": "wall_hours"}
"""Of tables, and keys of metrics."""


def curve(lines: Iterable[Mapping[str, Any]], key: str, unit: Unit = "steps") -> Curve:
    """Env steps (or hours) and values of one metric; a null is a gap in the curve."""
    column = COLUMNS[unit]
    found = (line for line in lines if line.get(key) is not None)
    points = sorted((line[column], line[key]) for line in found if line.get(column) is not None)
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values


def seed_curves(
    rows: Iterable[Mapping[str, str]], keys: Sequence[str], value: str, unit: Unit = "steps"
) -> dict[tuple[str, ...], list[Curve]]:
    """The rows of a table grouped by `keys`, one curve a seed and precision.

    Rounding makes runs of one seed diverge, so that two precisions are two runs.
    """
    column = COLUMNS[unit]
    seeds: dict[tuple[tuple[str, ...], str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row[value] and row[column]:
            group = tuple(row[key] for key in keys)
            run = group, row["seed"], row.get("precision", "")
            seeds[run].append((float(row[column]), float(row[value])))
    curves: dict[tuple[str, ...], list[Curve]] = defaultdict(list)
    for (group, _, _), points in sorted(seeds.items()):
        steps, values = np.array(sorted(points)).T
        curves[group].append((steps, values))
    return dict(curves)


def over_seeds(seeds: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Env steps where every seed has values `[steps]`, and the values there `[seeds, steps]`."""
    first = max(steps[0] for steps, _ in seeds)
    last = min(steps[-1] for steps, _ in seeds)
    grid = np.unique(np.concatenate([steps for steps, _ in seeds]))
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in seeds])


def draw_seeds(
    axes: Axes, seeds: Sequence[Curve], label: str, color: str, band: float = 0.15, **line: Any
) -> None:
    """Draw their summary as a line, its interval as a band of opacity `band`.

    On from where not all seeds are yet, there is a thin line for each.
    """
    steps, values = over_seeds(seeds)
    found = summary([values.T]) if steps.size else None
    style: dict[str, Any] = {"color": color, "marker": "o", "markersize": 4} | line
    axes.plot(steps, found.value if found else [], label=label, **style)
    if found and len(seeds) > 1:
        ends = found.low, found.high
        axes.fill_between(steps, *ends, color=color, alpha=band, linewidth=0, zorder=1)
    last = steps[-1] if steps.size else -np.inf
    thin = style | {"linewidth": 0.8, "alpha": 0.6, "marker": ""}
    for each, returns in seeds:
        if each[-1] > last:
            beyond = np.append(max(last, each[0]), each[each > last])
            axes.plot(beyond, np.interp(beyond, each, returns), **thin)


def bands(counts: Iterable[int]) -> str:
    """For a legend: what lines and bands of so many seeds each are."""
    told = {n >= FEW: Summary(0, 0, 0, n) for n in sorted(counts) if n > 1}
    if len(told) < 2:
        return "".join(f"line: {x.statistic}, band: {x.interval}" for x in told.values())
    few, many = (f"{told[k].statistic}, {told[k].interval}" for k in (False, True))
    return f"below {FEW} runs: {few}\nfrom {FEW} runs: {many}"


def standing(label: str, seeds: Sequence[Curve], unit: Unit = "steps") -> str:
    """Where curves end, in one line: at the last place where all of them have values."""
    steps, values = over_seeds(seeds)
    if not steps.size:
        return f"{label}: its {len(seeds)} seeds have no {unit} in common"
    at = f"{steps[-1]:,.0f} env steps" if unit == "steps" else f"{steps[-1]:.2f} hours"
    return f"{label}, after {at}: {summary([values[:, -1]]).text()}"
