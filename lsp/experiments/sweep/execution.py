"""Who carries out many runs: processes of this machine, or a Ray cluster."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lsp.config import RuntimeConfig
from lsp.errors import UserError
from lsp.experiments.sweep.planned_run import Outcome, PlannedRun
from lsp.experiments.sweep.progress_screen import show
from lsp.runs.tracking import check_tracker


@dataclass(frozen=True)
class Execution:
    """Where runs are carried out and kept."""

    engine: Literal["local", "ray"] = "local"
    """Processes of this machine, or a Ray cluster (pip install latent-skill-planning[ray])."""
    jobs: int | None = None
    """Runs at once on this machine; without it one a core. Each gets cores // jobs threads."""
    storage: Path = Path("runs/experiments")
    """Folder of all runs; on several nodes one that they share."""
    address: str | None = None
    """An existing Ray cluster, such as `auto` or `ray://HOST:10001`; without it a local one."""
    dry_run: bool = False
    """Only list the runs, with an estimate of their hours."""

    @property
    def at_once(self) -> int:
        """Raises UserError for less than one job."""
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"--jobs must be at least 1, not {self.jobs}")
        return self.jobs or cores()

    def runtime(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """The runtime of each run, with its share of the cores where no threads were asked for."""
        if runtime.threads is not None and runtime.threads < 1:
            raise UserError(f"threads must be at least 1, not {runtime.threads}")
        return replace(runtime, threads=runtime.threads or max(1, cores() // self.at_once))

    def carry_out(self, runs: Sequence[PlannedRun], runtime: RuntimeConfig) -> Outcome:
        """Carry out what is missing of `runs`. Raises UserError if this cannot even begin."""
        if self.address is not None and self.engine != "ray":
            raise UserError(f"--address {self.address} is of a Ray cluster: add --engine ray")
        check_tracker(runtime.track)
        storage, runtime = self.storage.resolve(), self.runtime(runtime)
        missing = [run for run in runs if not run.finished(storage)]
        try:
            (storage / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"cannot write to {storage} ({error.strerror}): choose another --storage"
            raise UserError(text) from error
        with show(len(missing), storage) as screen:
            if not missing:
                screen.say("Nothing to do: all runs are done.")
                return Outcome({}, False)
            if self.engine == "ray":
                from lsp.experiments.sweep.ray_engine import run_on_ray

                return run_on_ray(missing, storage, self.at_once, runtime, screen, self.address)
            from lsp.experiments.sweep.local_engine import run_locally

            return run_locally(missing, storage, self.at_once, runtime, screen)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
