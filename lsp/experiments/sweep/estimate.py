"""How long runs will take here, for `--dry-run`."""

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from pathlib import Path

from lsp.backends.hardware import uses_bf16
from lsp.config import RuntimeConfig
from lsp.experiments.sweep.planned_run import PlannedRun

PLANNING = {"lsp", "no_mi", "cem"}
SPEEDS = {True: (60.0, 110.0), False: (30.0, 55.0)}
"""Env steps a second of one thread at preset fast, with bf16 and without: of methods that plan, and
of others. With bf16 both are measured (lsp, dreamer); without it lsp alone was, at 25 to 36, and
others are taken to be faster by as much as with it."""
IMAGINING = 0.4
"""Share of a step's time that is rollouts of the planner, at preset fast and H = 10."""


def hours(run: PlannedRun, bf16: bool) -> float:
    """Estimated, of one thread. The planner's rollouts grow with H."""
    planning, other = SPEEDS[bf16]
    if run.config.method not in PLANNING:
        return run.steps / other / 3600
    longer = 1 + IMAGINING * (run.config.planner.horizon / 10 - 1)
    return longer * run.steps / planning / 3600


def elapsed(runs: Sequence[PlannedRun], left: Mapping[str, float], jobs: int) -> float:
    """Hours until the last of `runs` ends, with `jobs` at once: a transfer waits for its source.
    `left` are the hours of each, by name."""
    undone = {run.name for run in runs if left[run.name] > 0}
    waiting = [run for run in runs if run.name in undone]
    running: list[tuple[float, str]] = []
    now = 0.0
    while waiting or running:
        for run in list(waiting):
            is_ready = run.source is None or run.source.name not in undone
            if is_ready and len(running) < jobs:
                waiting.remove(run)
                heappush(running, (now + left[run.name], run.name))
        now, name = heappop(running)
        undone.remove(name)
    return now


def listing(
    runs: Sequence[PlannedRun], storage: Path, jobs: int, runtime: RuntimeConfig
) -> list[str]:
    """A line for each run, with what is left of it, and the sum."""
    bf16, lines, left = uses_bf16(runtime), [], {}
    for run in runs:
        share = max(0.0, 1 - run.reached(storage) / max(run.steps, 1))
        left[run.name] = share * hours(run, bf16)
        state = "done" if share == 0 else f"{left[run.name]:6.1f} h"
        after = f"  after {run.source.name}" if run.source else ""
        lines.append(f"{state:>8}  {run.steps:>9,} env steps  {run.name}{after}")
    count = sum(not run.finished(storage) for run in runs)
    total = f"{len(runs)} runs, {count} to do: {sum(left.values()):.1f} hours of one thread, "
    return [
        *lines,
        f"{total}about {elapsed(runs, left, jobs):.1f} hours with {jobs} at once.",
        _note(bf16),
    ]


def _note(bf16: bool) -> str:
    planning, other = SPEEDS[bf16]
    return (
        f"Hours from {planning:.0f} env steps/s for methods that plan and {other:.0f} for others, "
        f"{'with' if bf16 else 'without'} bf16 as here: preset fast, proprioception, one thread; "
        "a longer H is allowed for, and so is waiting for a source. Pixels are slower, and preset "
        "paper wants a GPU: about 2 env steps/s on two threads."
    )
