"""How all runs are getting on, on one screen."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.live import Live
from rich.table import Table

from lsp.experiments.sweep.planned_run import PlannedRun

PLAIN_EVERY = 60.0  # seconds between reports where there is no terminal
LIVE_EVERY = 0.5
_TAIL = 4096  # bytes of a log that hold its last line


class Screen:
    """A table that is kept current on a terminal, lines elsewhere."""

    def __init__(self, storage: Path, total: int, live: Live | None):
        self.storage, self.total, self.live = storage, total, live
        self.done = self.failed = 0
        self._next = time.monotonic()

    def say(self, line: str) -> None:
        """One line that stays."""
        if self.live is None:
            print(line, flush=True)
        else:
            self.live.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def finished(self, run: PlannedRun) -> None:
        self.done += 1
        self.say(f"done: {run.name} ({self.done} of {self.total})")

    def given_up(self, run: PlannedRun, why: str) -> None:
        self.failed += 1
        self.say(f"failed: {run.name}: {why}")

    def update(self, running: Iterable[PlannedRun]) -> None:
        """Show what the running ones last said; call it often."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (PLAIN_EVERY if self.live is None else LIVE_EVERY)
        rows = [(run.name, last_line(run.log(self.storage)) or "starting") for run in running]
        if self.live is None:
            for name, text in rows:
                self.say(f"{name}: {text}")
            return
        table = Table.grid(padding=(0, 2))
        for name, text in rows:
            table.add_row(name, text)
        failed = f", {self.failed} failed" if self.failed else ""
        table.add_row(f"{self.done} of {self.total} runs done{failed}")
        self.live.update(table)


@contextmanager
def show(total: int, storage: Path) -> Iterator[Screen]:
    """A screen for `total` runs."""
    if not sys.stdout.isatty():
        yield Screen(storage, total, None)
        return
    with Live(auto_refresh=True, refresh_per_second=2) as live:
        yield Screen(storage, total, live)


def last_line(log: Path) -> str:
    """Of a log; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
