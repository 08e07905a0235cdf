"""Runs as tasks of a Ray cluster, which schedules, places and retries them."""

import os
import re
import socket
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from lsp.config import RuntimeConfig
from lsp.errors import UserError, said, warn
from lsp.experiments.sweep.planned_run import Outcome, PlannedRun
from lsp.experiments.sweep.progress_screen import Screen
from lsp.experiments.sweep.worker import job, perform_job
from lsp.training.signals import calling

RETRIES = 3  # times that a run whose process or node died resumes from its checkpoint
_POLL = 1.0  # seconds
_PATIENCE = 10.0  # seconds that a cluster has to answer
# Ray speaks gRPC, which is HTTP/2: both sides begin with their settings, frames of type 4.
_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS


def run_on_ray(
    runs: Sequence[PlannedRun],
    storage: Path,
    jobs: int,
    runtime: RuntimeConfig,
    screen: Screen,
    address: str | None,
) -> Outcome:
    """Carry out `runs` on the cluster at `address`, or on this machine with `jobs` at once.

    Raises UserError where Ray is not installed, the cluster cannot be reached, or this machine has
    not what a run needs.
    """
    ray = _connected(address, jobs, runtime)
    needs = {"CPU": runtime.threads or 1, "GPU": int(runtime.device.startswith("cuda"))}
    _check_room(ray, needs, address)
    resources = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "max_calls": 1}
    task = ray.remote(max_retries=RETRIES, retry_exceptions=True, **resources)(_task)
    results: dict[str, Any] = {}
    for run in runs:
        # Ray starts a task when what it is given is there: a transfer waits for its source.
        source = results.get(run.source.name) if run.source else None
        log = str(run.log(storage))
        results[run.name] = task.options(name=run.name).remote(
            job(run, storage, runtime), log, source
        )
    named = {results[run.name]: run for run in runs}
    failed: dict[str, str] = {}
    try:
        signals: list[int] = []
        with calling(signals.append):
            _follow(ray, named, failed, screen, storage, signals)
            stopped = bool(signals)
            if stopped:
                screen.say("Stopping: every run saves itself; again to kill them.")
                _stop(ray, list(named), signals)
    finally:
        ray.shutdown()
    return Outcome(failed, stopped)


def _task(text: str, log: str, source: str | None) -> str | None:
    """In a worker: one run. Returns what is wrong with it where trying again would not help."""
    os.makedirs(os.path.dirname(log), exist_ok=True)
    if source:
        return f"its source failed: {source}"
    with open(log, "a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            reached = perform_job(text, lambda line: print(line, file=file, flush=True))
        except UserError as error:
            return str(error)
    return None if reached else "stopped"


def _follow(
    ray: Any,
    named: dict[Any, PlannedRun],
    failed: dict[str, str],
    screen: Screen,
    storage: Path,
    signals: Sequence[int],
) -> None:
    """Report each result as it comes, until all have or someone wants to stop."""
    left = list(named)
    while left and not signals:
        ended, left = ray.wait(left, timeout=_POLL)
        for result in ended:
            run = named[result]
            why = _why(ray, result)
            if why is None:
                screen.finished(run)
            else:
                failed[run.name] = why
                screen.given_up(run, why)
        screen.update(named[x] for x in left if named[x].log(storage).exists())


def _stop(ray: Any, results: list[Any], signals: Sequence[int]) -> None:
    """Ask all to save and stop, and wait for them; kill them at the second of `signals`."""
    for result in results:
        ray.cancel(result, force=False)
    left, killed = results, False
    while left:
        _, left = ray.wait(left, num_returns=len(left), timeout=_POLL)
        if len(signals) > 1 and not killed:
            killed = True
            for result in left:
                ray.cancel(result, force=True)


def _why(ray: Any, result: Any) -> str | None:
    """Why a run failed; None if it did not."""
    try:
        problem: str | None = ray.get(result)
        return problem
    except ray.exceptions.RayError as error:
        return str(error).strip().splitlines()[-1]


def _check_answer(address: str | None) -> None:
    """Raises UserError where nobody answers at `address`: Ray goes on trying for many minutes."""
    match = re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)", address or "")
    if match is None:
        return
    try:
        with socket.create_connection((match[1], int(match[2])), timeout=_PATIENCE) as reached:
            answer = _SETTINGS if _is_encrypted() else _answer(reached)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster at {address} ({said(error)}): start one with ray start"
        ) from error
    if answer[3:4] != _SETTINGS[3:4]:
        raise UserError(f"something else than a Ray cluster listens at {address}: check the port")


def _is_encrypted() -> bool:
    """Whether connections to clusters are, as Ray is told."""
    return os.environ.get("RAY_USE_TLS", "0") not in ("", "0")


def _answer(reached: socket.socket) -> bytes:
    """The first bytes of what listens."""
    reached.sendall(_GREETING)
    return reached.recv(len(_SETTINGS))


def _check_room(ray: Any, needs: dict[str, int], address: str | None) -> None:
    """Raises UserError where no node will ever have room for a run: Ray would wait in silence. A
    cluster at `address` may still grow, so of it there is a warning."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0) >= count for kind, count in needs.items()) for node in nodes):
        return
    wanted = ", ".join(f"{count} {kind}" for kind, count in needs.items() if count)
    if address is None:
        ray.shutdown()
        raise UserError(f"a run needs {wanted}, which this machine does not have")
    warn(f"no node of the cluster at {address} has {wanted}: runs wait for one that has")


def _connected(address: str | None, jobs: int, runtime: RuntimeConfig) -> Any:
    """Ray, initialised."""
    try:
        import ray
    except ImportError:
        raise UserError(
            "--engine ray needs Ray: pip install 'latent-skill-planning[ray]'"
        ) from None
    _check_answer(address)
    # What a cluster that is there already has decided for itself.
    here = {"num_cpus": jobs * (runtime.threads or 1), "include_dashboard": False}
    settings: dict[str, Any] = {} if address else here
    try:
        ray.init(address=address or "local", log_to_driver=False, **settings)
    except (ConnectionError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"no Ray cluster at {address} ({said}): start one with ray start"
        ) from error
    return ray
