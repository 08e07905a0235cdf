"""Sweeps: who carries runs out, and what happens to those that fail, are killed or stopped."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forked import Forked, sweep_worker
from test_experiments import RUNTIME, brief, call, debug_run, perform_here

from lsp.config import (
    TransferConfig,
    on_another_task,
)
from lsp.errors import RunWarning, UserError
from lsp.experiments.sweep import local_engine, worker
from lsp.experiments.sweep.execution import Execution
from lsp.experiments.sweep.planned_run import Outcome, PlannedRun
from lsp.experiments.sweep.progress_screen import Screen, last_line
from lsp.runs.metrics import read_metrics
from lsp.training.transfer import transferred


@pytest.fixture
def forked(monkeypatch: Any) -> None:
    """The local engine's processes, without what each takes to start: other tests start them."""

    def start(run: Any, storage: Any, runtime: Any) -> Any:
        given = worker.job(run, storage, runtime)
        return Forked(sweep_worker, [], run.log(storage), Path.cwd(), os.environ, given)

    monkeypatch.setattr(local_engine, "_start", start)


def test_a_sweep_trains_what_is_missing_and_only_that(
    tmp_path: Any, capsys: Any, forked: Any
) -> None:
    command = (
        "sweep --preset debug --task walker_walk --method lsp,dreamer --steps 60 --jobs 2 "
        "--action-repeat 20 "
        f"--storage {tmp_path}"
    )
    call(command)
    folders = sorted(tmp_path.glob("walker_walk-*"))
    assert [folder.name.split("-")[1] for folder in folders] == ["dreamer", "lsp"]
    before = [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in folders]
    assert "(2 of 2)" in capsys.readouterr().out
    call(command)
    assert [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in folders] == before
    assert capsys.readouterr().out == "Nothing to do: all runs are done.\n"


class Killing(Screen):
    """Kills a run's process once, as soon as there is a checkpoint."""

    def __init__(self, storage: Any, pool_running: Any) -> None:
        super().__init__(storage, 1, None)
        self.processes = pool_running
        self.lines: list[str] = []

    def say(self, line: Any) -> None:
        self.lines.append(line)


def test_a_killed_process_goes_on_from_its_checkpoint(
    tmp_path: Any, forked: Any, monkeypatch: Any
) -> None:
    started, start = [], local_engine._start

    def remember(run: Any, storage: Any, runtime: Any) -> Any:
        started.append(start(run, storage, runtime))
        return started[-1]

    monkeypatch.setattr(local_engine, "_start", remember)
    screen = Killing(tmp_path, started)

    def kill(running: Any) -> None:
        if len(started) == 1 and run.reached(tmp_path) >= 1000:
            started[0].kill()

    screen.update = kill  # type: ignore[method-assign]
    (tmp_path / "logs").mkdir()
    run = brief(2000)
    outcome = local_engine.run_locally([run], tmp_path, 1, RUNTIME, screen)
    assert outcome == Outcome({}, False)
    assert len(started) == 2
    assert run.finished(tmp_path)
    assert "died (exit -9)" in screen.lines[0]
    assert "on from 0 env steps" not in screen.lines[0]
    steps = [x["env_steps"] for x in read_metrics(run.folder(tmp_path)) if x["kind"] == "train"]
    assert steps == list(range(200, 2001, 200))


def test_a_run_that_cannot_be_done_is_one_line_and_the_others_go_on(
    tmp_path: Any, capsys: Any, forked: Any
) -> None:
    runs = [brief(200, "walker_wak"), brief(200)]
    transfer = brief(200, "walker_run", runs[0])
    outcome = Execution(storage=tmp_path, jobs=2).carry_out([*runs, transfer], RUNTIME)
    assert set(outcome.failed) == {runs[0].name, transfer.name}
    assert "Unknown task 'walker_wak'" in outcome.failed[runs[0].name]
    assert "its source" in outcome.failed[transfer.name]
    assert runs[1].finished(tmp_path)
    assert capsys.readouterr().out.count("failed: ") == 2


def test_a_transfer_waits_for_its_source_and_starts_from_it(tmp_path: Any, forked: Any) -> None:
    source = brief(400)
    config = on_another_task(source.config, "walker_run", TransferConfig())
    transfer = PlannedRun(config, 200, source)
    outcome = Execution(storage=tmp_path, jobs=2).carry_out([source, transfer], RUNTIME)
    assert outcome == Outcome({}, False)
    assert transfer.finished(tmp_path)
    # What `lsp transfer` would have recorded.
    expected = transferred(source.folder(tmp_path), "walker_run")
    assert transfer.settings(tmp_path).resolved() == expected


def test_a_source_of_another_length_is_refused(tmp_path: Any, short_episodes: Any) -> None:
    perform_here([brief(400)], tmp_path)
    transfer = brief(200, "walker_run", brief(200))
    with pytest.raises(UserError, match=r"trained for 400 env steps, and .* starts from 200"):
        perform_here([transfer], tmp_path)


def test_a_source_whose_end_is_damaged_is_refused(tmp_path: Any, short_episodes: Any) -> None:
    source = brief(400)
    perform_here([source], tmp_path)
    newest = source.folder(tmp_path) / "checkpoints" / "step-000000400"
    (newest / "networks.safetensors").write_bytes(b"damaged")
    transfer = brief(200, "walker_run", source)
    with (
        pytest.warns(RunWarning, match="resuming from step"),
        pytest.raises(UserError, match=r"newest is damaged.*remove it"),
    ):
        perform_here([transfer], tmp_path)
    assert not transfer.folder(tmp_path).exists()


def test_the_source_of_a_sweep_is_a_run_however_it_is_spelled(
    tmp_path: Any, monkeypatch: Any, capsys: Any, short_episodes: Any
) -> None:
    perform_here([brief(20)], tmp_path)
    monkeypatch.chdir(tmp_path)
    name = brief(20).name
    for source in (name, f"./{name}", str(tmp_path / name)):
        call(f"sweep --preset debug --transfer.source {source} --dry-run")
    said = capsys.readouterr().out
    assert len({line for line in said.splitlines() if "env steps  walker" in line}) == 1
    with pytest.raises(SystemExit):
        call("sweep --transfer.source nowhere --dry-run")
    assert "nowhere is not a run" in capsys.readouterr().err


# Ray's own processes take half a minute to come and go.
STOPPED_BY = [
    ("local", signal.SIGINT),
    pytest.param("local", signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param("ray", signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param("ray", signal.SIGINT, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("engine", "number"), STOPPED_BY)
def test_a_signal_saves_every_run(tmp_path: Any, engine: Any, number: Any) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    command = (
        "sweep --preset debug --task walker_walk --seeds 0-1 --steps 1000000 --jobs 2 "
        f"--engine {engine} "
        f"--storage {tmp_path}"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "lsp", *shlex.split(command)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    logs = [tmp_path / "logs" / f"{debug_run(seed=seed).name}.log" for seed in (0, 1)]
    deadline = time.monotonic() + 120
    while not all("env steps" in last_line(log) for log in logs) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Stopped and saved" in said
    for seed in (0, 1):
        assert debug_run(seed=seed).reached(tmp_path) > 0


def test_two_processes_do_not_train_the_same_run_at_once(tmp_path: Any, forked: Any) -> None:
    run = brief(600)
    (tmp_path / "logs").mkdir()
    processes = [local_engine._start(run, tmp_path, RUNTIME) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    steps = [x["env_steps"] for x in read_metrics(run.folder(tmp_path)) if x["kind"] == "train"]
    assert steps == [200, 400, 600]
