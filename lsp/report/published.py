"""Published learning curves, drawn beside our own."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lsp.errors import UserError
from lsp.report.seeds import Curve, draw_seeds, over_seeds, seed_curves
from lsp.report.statistics import summary

COARSE = 100_000
"""Env steps between points from which on they are points: a line from 0 to the first one, where
our runs end, would say what nobody measured."""
DASHES = ("--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2)))
_COLORS = (
    *("#555555", "#8C8C8C", "#B3A36B", "#7B8FA6"),
    *("#9C7B6B", "#6B9C84", "#8E7BA6", "#A66B7B"),
)
_MARKERS = "sD^vPX*<"


def draw_published(axes: Axes, rows: Sequence[dict[str, str]], last: int) -> list[int]:
    """Draw them up to `last` env steps: one colour an algorithm, one kind of dashes a source.

    Those that are coarse are points. Returns the numbers of seeds.
    """
    groups = seed_curves(rows, ("algorithm", "obs", "source"), "score")
    algorithms = sorted({algorithm for algorithm, _, _ in groups})
    sources = sorted({source for _, _, source in groups})
    colors = dict(zip(algorithms, itertools.cycle(_COLORS)))
    dashes = dict(zip(sources, itertools.cycle(DASHES)))
    markers = dict(zip(sources, itertools.cycle(_MARKERS)))
    counts = []
    for (algorithm, obs, source), seeds in groups.items():
        count = f"{len(seeds)} seed" + ("" if len(seeds) == 1 else "s")
        label = f"{algorithm}, published ({obs}, {source}, {count})"
        counts.append(len(seeds))
        if is_coarse(seeds):
            _draw_points(axes, seeds, label, colors[algorithm], markers[source], last)
            continue
        # One point past the end, so that the line reaches it.
        clipped = [_until(curve, last) for curve in seeds]
        style = {"linestyle": dashes[source], "linewidth": 1.2, "markersize": 2.5}
        draw_seeds(axes, clipped, label, colors[algorithm], band=0.06, zorder=2, **style)
    return counts


def is_coarse(seeds: Sequence[Curve]) -> bool:
    """Whether most points lie COARSE env steps apart, or more; a lone one is one too."""
    gaps = np.concatenate([np.diff(steps) for steps, _ in seeds])
    return not gaps.size or bool(np.median(gaps) >= COARSE)


def read_published(path: Path, task: str, observed: set[str]) -> list[dict[str, str]]:
    """The published rows of a task, from the same kinds of observation as ours.

    Raises:
        UserError: `path` cannot be read, or holds no published curves.
    """
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


def _draw_points(
    axes: Axes, seeds: Sequence[Curve], label: str, color: str, marker: str, last: int
) -> None:
    """Up to `last`, with the interval of their summary as a bar."""
    steps, values = over_seeds(seeds)
    shown = steps <= last
    if not shown.any():
        return
    found = summary([values[:, shown].T])
    style: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "", "markersize": 6}
    axes.plot(steps[shown], found.value, label=label, zorder=2, **style)
    if len(seeds) > 1:
        axes.vlines(steps[shown], found.low, found.high, color=color, linewidth=1, zorder=2)


def _until(curve: Curve, last: int) -> Curve:
    steps, values = curve
    end = int(np.searchsorted(steps, last)) + 1
    return steps[:end], values[:end]
