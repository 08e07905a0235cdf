"""One run, in this process: what every engine carries out.

`python -m lsp.experiments.sweep.worker PARENT` takes a job as JSON on its standard input, and ends
with the process PARENT.
"""

import ctypes
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lsp.config import RuntimeConfig, from_dict, to_dict
from lsp.errors import UserError
from lsp.experiments.sweep.planned_run import PlannedRun

STOPPED = 3
"""Exit code of a run that was asked to stop, and saved."""
MISTAKE = 2
"""Exit code of a run that would fail again."""

_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h

Say = Callable[[str], None]


def perform(run: PlannedRun, storage: Path, runtime: RuntimeConfig, say: Say) -> bool:
    """Train `run`, or resume it; nothing where it is finished. Returns whether it is.

    Raises UserError as `lsp.train`, and where a transfer's source is not what it starts from.
    """
    from lsp.api import train
    from lsp.training.progress import describe

    with _alone(run, storage):
        if run.finished(storage):
            return True
        run.check_source(storage)
        sys.argv = ["lsp", *run.command(storage)]  # what the run's folder says made it
        folder, settings = run.folder(storage), run.settings(storage)
        return train(settings, folder, run.steps, runtime, lambda now: say(describe(now)))


@contextmanager
def _alone(run: PlannedRun, storage: Path) -> Iterator[None]:
    """Wait for other processes that have the same run in hand; theirs end with their lock."""
    log = run.log(storage)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def job(run: PlannedRun, storage: Path, runtime: RuntimeConfig) -> str:
    """The run as JSON, for another process."""
    values = {"run": run.to_dict(), "storage": str(storage), "runtime": to_dict(runtime)}
    return json.dumps(values)


def perform_job(text: str, say: Say) -> bool:
    """`perform` what `job` wrote down."""
    values: dict[str, Any] = json.loads(text)
    runtime = from_dict(values["runtime"], RuntimeConfig, "runtime")
    return perform(PlannedRun.from_dict(values["run"]), Path(values["storage"]), runtime, say)


def _end_with_parent(parent: int) -> None:
    """Be told to save and stop where the sweep itself is killed (Linux), and end at once where it
    was killed before this process could ask for that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(STOPPED)


def main() -> None:
    """A job from standard input; says how it goes on standard output."""
    from lsp.training.progress import say

    _end_with_parent(int(sys.argv[1]))
    if not (text := sys.stdin.read()):  # the sweep was killed before it could write it
        raise SystemExit(STOPPED)
    try:
        reached = perform_job(text, say)
    except UserError as error:
        say(str(error))
        raise SystemExit(MISTAKE) from None
    raise SystemExit(0 if reached else STOPPED)


if __name__ == "__main__":
    main()
