"""How fast a transfer adapts: the paper's headline as numbers (section 4.3)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lsp.experiments.figures.curves import evaluations, partial_note, write_rows
from lsp.experiments.figures.definitions import Curve, Target
from lsp.experiments.figures.evaluations import TOO_FAR, Records
from lsp.report.plots import STANDING_STILL
from lsp.report.seeds import over_seeds
from lsp.report.statistics import summary
from lsp.runs.metrics import read_metrics

PAPERS_RETURN = 500.0  # that figure 5 compares steps to: 70k for LSP, 130k for Dreamer
PAPERS_STEPS = 70_000
WINDOW = 10_000  # env steps over which the episodes that reach the goal are counted

HEADER = ("panel", "curve", "seeds", "steps_to_500", "return_at_70k", "half", "steps_to_half")


def write_speeds(target: Target, records: Records, out: Path) -> None:
    """For each line its env steps to a return of 500, its return at 70k env steps, and its env
    steps to half of what the panel's best line gains over standing still. Empty where it was not
    reached, or there is nothing to tell from."""
    drawn = {curve: _line(curve, records) for curve in target.curves}
    rows: list[tuple[str, ...]] = [HEADER]
    for curve, (count, steps, values) in drawn.items():
        rivals = [drawn[other][2] for other in target.curves if other.panel == curve.panel]
        half = half_of_the_gain(curve.runs[0].config.task, np.concatenate(rivals))
        there = steps.size > 0 and steps[0] <= PAPERS_STEPS <= steps[-1]
        rows.append(
            (
                curve.panel,
                curve.label,
                f"{count}/{len(curve.runs)}",
                _text(steps_to(steps, values, PAPERS_RETURN)),
                _text(np.interp(PAPERS_STEPS, steps, values) if there else None),
                _text(half),
                _text(steps_to(steps, values, half)),
            )
        )
    write_rows(rows, out, partial_note(target, records))


def _line(curve: Curve, records: Records) -> tuple[int, np.ndarray, np.ndarray]:
    """Seeds that there are, and env steps and returns of their summary; empty without any."""
    seeds = evaluations(curve, records)
    if not seeds:
        return 0, np.empty(0), np.empty(0)
    steps, values = over_seeds(seeds)
    if not steps.size:  # none that all of them have
        return len(seeds), steps, steps
    return len(seeds), steps, np.asarray(summary([values.T]).value)


def half_of_the_gain(task: str, values: np.ndarray) -> float | None:
    """The return half way from standing still to the best of `values`."""
    still = STANDING_STILL.get(task, 0.0)
    best = values.max(initial=still)
    return None if best <= still else still + (best - still) / 2


def steps_to(steps: np.ndarray, values: np.ndarray, goal: float | None) -> float | None:
    """Where a curve first reaches `goal`, linear between its points; None if it never does."""
    reached = np.empty(0) if goal is None else np.flatnonzero(values >= goal)
    if goal is None or reached.size == 0:
        return None
    at = reached[0]
    if at == 0:
        return float(steps[0])
    share = (goal - values[at - 1]) / (values[at] - values[at - 1])
    return float(steps[at - 1] + share * (steps[at] - steps[at - 1]))


def write_successes(target: Target, records: Records, out: Path) -> None:
    """The share of training episodes that reach the goal, for every 10k env steps and line."""
    shares = [success_shares(curve, records) for curve in target.curves]
    windows = range(max((len(share) for share in shares), default=0))
    rows = [("panel", "curve", *(f"to {(i + 1) * WINDOW}" for i in windows))]
    for curve, share in zip(target.curves, shares):
        texts = ["" if np.isnan(x) else f"{x:.2f}" for x in share]
        rows.append((curve.panel, curve.label, *texts, *[""] * (len(windows) - len(share))))
    write_rows(rows, out, partial_note(target, records.of_folders))


def success_shares(curve: Curve, records: Records) -> Sequence[float]:
    """Of the episodes that end within each WINDOW, of all seeds that count, the share with success;
    NaN for none."""
    ended: list[tuple[float, float]] = []
    for run in filter(records.counts, curve.runs):
        folder = run.folder(records.storage)
        lines = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
        ended += [
            (x["env_steps"], x["episode/success"])
            for x in lines
            if x["kind"] == "episode" and x.get("episode/success") is not None
            if x["env_steps"] <= run.steps * TOO_FAR
        ]
    if not ended:
        return []
    steps, success = np.array(ended, float).T
    window = (np.ceil(steps / WINDOW) - 1).astype(int)
    count = np.bincount(window)
    with np.errstate(invalid="ignore"):
        return list(np.bincount(window, success) / count)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
