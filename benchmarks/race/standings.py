"""Draws a race's returns against hours, and writes and prints a table of them.

    python benchmarks/race/standings.py runs/race race.png --table race.csv

A return after so many minutes, or env steps, is that of the first evaluation from there on.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from track import COLUMNS

from lsp.errors import UserError
from lsp.report.labels import colors_of
from lsp.report.plots import finish, save_figure
from lsp.report.seeds import bands, draw_seeds

MINUTES = (10, 30, 60)
STEPS = (20_000, 50_000, 100_000)


class Result(NamedTuple):
    """A finished contestant's evaluations, `[points]` each."""

    task: str
    agent: str
    seed: int
    env_steps: np.ndarray
    minutes: np.ndarray
    returns: np.ndarray


def read_result(path: Path) -> Result:
    """From RACE/TASK/AGENT-SEED.csv.

    Raises:
        UserError: it cannot be read, or is none.
    """
    agent, _, seed = path.stem.rpartition("-")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [[float(row[name]) for name in COLUMNS] for row in csv.DictReader(file)]
        env_steps, minutes, returns, _ = np.array(rows).T
        return Result(path.parent.name, agent, int(seed), env_steps, minutes, returns)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check the path") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no contestant's CSV ({error}): remove it, and race again"
        ) from error


def read_race(folder: Path) -> list[Result]:
    """Raises UserError where nobody has finished yet."""
    results = [read_result(path) for path in sorted(folder.glob("*/*.csv"))]
    if not results:
        raise UserError(f"{folder} holds no finished contestant: race.py --out {folder}")
    return results


def at(marks: np.ndarray, returns: np.ndarray, mark: float) -> float | None:
    """The return of the first evaluation at a mark or after it; None where it was not reached."""
    index = int(np.searchsorted(marks, mark))
    return float(returns[index]) if index < len(marks) else None


def table(results: Sequence[Result]) -> list[dict[str, str]]:
    """A row for each contestant: where it stood, and where it ended."""
    rows = []
    for result in results:
        row = {"task": result.task, "agent": result.agent, "seed": str(result.seed)}
        found = {f"{mark} min": at(result.minutes, result.returns, mark) for mark in MINUTES}
        found |= {f"{mark // 1000}k": at(result.env_steps, result.returns, mark) for mark in STEPS}
        row |= {name: "" if value is None else f"{value:.1f}" for name, value in found.items()}
        row |= {"minutes": f"{result.minutes[-1]:.1f}", "env_steps": f"{result.env_steps[-1]:.0f}"}
        row |= {"return": f"{result.returns[-1]:.1f}"}
        rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[value or "–" for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(results: Sequence[Result], out: Path) -> None:
    """A panel for each task, a line for each agent.

    Raises:
        UserError: `out` is no picture, or cannot be written.
    """
    tasks = sorted({result.task for result in results})
    labels = {result.agent: label(result.agent) for result in results}
    colors = colors_of(labels.values())
    figure = Figure(figsize=(7.5 * len(tasks), 4.2), layout="constrained")
    # Beside the axes: the curves may leave no empty corner.
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks):
        curves = defaultdict(list)
        for result in results:
            if result.task == task:
                curves[result.agent].append((result.minutes / 60, result.returns))
        for agent, seeds in curves.items():
            draw_seeds(axes, seeds, labels[agent], colors[labels[agent]])
        axes.set_xlim(left=0)
        note = bands(len(seeds) for seeds in curves.values())
        finish(axes, task, unit="hours", note=note, **beside)
    save_figure(figure, out)


def label(agent: str) -> str:
    """A method of ours keeps the colour that it has in other figures."""
    return ", ".join(agent.split("-", 1))


def write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("race", type=Path, help="race.py's --out")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--table", type=Path, required=True)
    asked = parser.parse_args(arguments)
    try:
        results = read_race(asked.race)
        rows = table(results)
        write(asked.table, rows)
        draw(results, asked.picture)
    except UserError as error:
        print(f"standings.py: {error}", file=sys.stderr)
        return 2
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
