"""Runs as processes of this machine, some at a time."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lsp.config import RuntimeConfig
from lsp.experiments.sweep.planned_run import Outcome, PlannedRun
from lsp.experiments.sweep.progress_screen import Screen, last_line
from lsp.experiments.sweep.worker import MISTAKE, job
from lsp.training.signals import calling

RETRIES = 3  # times that a run that died resumes from its checkpoint
_POLL = 0.1  # seconds

Process = subprocess.Popen[str]


def run_locally(
    runs: Sequence[PlannedRun], storage: Path, jobs: int, runtime: RuntimeConfig, screen: Screen
) -> Outcome:
    """Carry out `runs`, `jobs` at a time; SIGINT and SIGTERM stop and save them all."""
    pool = _Pool(runs, storage, runtime, screen)
    signals: list[int] = []
    with calling(signals.append):
        try:
            while (pool.waiting or pool.running) and not signals:
                pool.start(jobs)
                pool.collect()
                screen.update(run for run, _ in pool.running)
                time.sleep(_POLL)
        except BaseException:  # such as a screen that is gone: nobody would stop them later
            pool.stop(signals)
            raise
        stopped = bool(signals)
        if stopped:
            screen.say("Stopping: every run saves itself; again to kill them.")
            pool.stop(signals)
    return Outcome(pool.failed, stopped)


class _Pool:
    """Runs that wait, that are under way, and that failed."""

    def __init__(
        self, runs: Sequence[PlannedRun], storage: Path, runtime: RuntimeConfig, screen: Screen
    ):
        self.storage, self.runtime, self.screen = storage, runtime, screen
        self.waiting = list(runs)
        self.running: list[tuple[PlannedRun, Process]] = []
        self.failed: dict[str, str] = {}
        self.deaths: Counter[str] = Counter()

    def start(self, jobs: int) -> None:
        """Start runs whose sources are there, while there is room."""
        for run in list(self.waiting):
            source = run.source
            if source is not None and source.name in self.failed:
                self.waiting.remove(run)
                self._give_up(run, f"its source {source.name} failed")
            elif len(self.running) < jobs and (source is None or source.finished(self.storage)):
                self.waiting.remove(run)
                self.running.append((run, _start(run, self.storage, self.runtime)))

    def collect(self) -> None:
        """See which runs have ended, and how."""
        for each in [each for each in self.running if each[1].poll() is not None]:
            self.running.remove(each)
            run, process = each
            if process.returncode == 0:
                self.screen.finished(run)
            elif process.returncode == MISTAKE or self.deaths[run.name] == RETRIES:
                log = run.log(self.storage)
                self._give_up(run, f"{last_line(log)} (exit {process.returncode}; {log})")
            else:
                self.deaths[run.name] += 1
                self.waiting.insert(0, run)
                reached = run.reached(self.storage)
                self.screen.say(
                    f"died (exit {process.returncode}): {run.name}; on from {reached:,} env steps"
                )

    def stop(self, signals: Sequence[int]) -> None:
        """Ask all to save and stop, and wait for them; kill them at the second of `signals`."""
        self._signal(signal.SIGTERM)
        while any(process.poll() is None for _, process in self.running):
            if len(signals) > 1:
                self._signal(signal.SIGKILL)
            time.sleep(_POLL)

    def _signal(self, number: int) -> None:
        for _, process in self.running:
            process.send_signal(number)

    def _give_up(self, run: PlannedRun, why: str) -> None:
        self.failed[run.name] = why
        self.screen.given_up(run, why)


def _start(run: PlannedRun, storage: Path, runtime: RuntimeConfig) -> Process:
    """A process of its own session: Ctrl-C reaches it through us alone."""
    environment = os.environ | {"OMP_NUM_THREADS": str(runtime.threads or 1)}
    with run.log(storage).open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lsp.experiments.sweep.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
    assert process.stdin is not None
    process.stdin.write(job(run, storage, runtime))
    process.stdin.close()
    return process
