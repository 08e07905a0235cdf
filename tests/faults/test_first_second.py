"""Row 18: runs and sweeps that are killed in their first second."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, command, environment, steps_saved, train_here

from lsp.config import RuntimeConfig, make_config
from lsp.experiments.sweep.planned_run import PlannedRun
from lsp.experiments.sweep.worker import STOPPED, job

LEFT: dict[str, Any] = {
    "nothing": lambda folder: None,
    "a lock": lambda folder: (folder / "lock").touch(),
    "half of its settings": lambda folder: (folder / "config.json.tmp").write_text('{"task": "wa'),
}


@pytest.mark.parametrize("left", LEFT)
def test_row_18_a_run_killed_before_it_had_settings_starts(tmp_path: Path, left: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    LEFT[left](folder)
    train_here(folder, 200)
    assert steps_saved(folder)[0] >= 200
    assert not (folder / "config.json.tmp").exists()


def test_row_18_settings_without_a_checkpoint_start(tmp_path: Path) -> None:
    """As after a kill between config.json and the first checkpoint."""
    train_here(tmp_path / "run", 200)
    run = tmp_path / "again"
    run.mkdir()
    text = (tmp_path / "run" / "config.json").read_bytes()
    (run / "config.json").write_bytes(text)
    train_here(run, 200)
    assert steps_saved(run)[0] >= 200


def test_other_folders_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(SystemExit):
        train_here(tmp_path, 200)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to be told")
@pytest.mark.parametrize("parent", ["gone", "killed before it wrote the job"])
def test_row_18_a_worker_whose_sweep_is_gone_trains_nothing(tmp_path: Path, parent: str) -> None:
    run = PlannedRun(make_config("lsp", "debug"), 10**6)
    gone = parent == "gone"
    done = subprocess.run(
        [sys.executable, "-m", "lsp.experiments.sweep.worker", str(1 if gone else os.getpid())],
        input=job(run, tmp_path, RuntimeConfig()) if gone else "",
        text=True,
        capture_output=True,
        cwd=ROOT,
        env=environment(),
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (STOPPED, "")
    assert list(tmp_path.iterdir()) == []


def processes_with(mark: str) -> list[int]:
    """Those that inherited a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's /proc")
def test_row_18_a_sweep_killed_in_its_first_second_leaves_no_worker(
    tmp_path: Path, count: Any, figure: Any
) -> None:
    tried = count(1, 8)
    for number in range(tried):
        mark = f"LSP_TEST_{uuid.uuid4().hex}"
        flags = command(tmp_path / "unused")[1:]
        at = flags.index("--logdir")
        flags = ["--storage", str(tmp_path / "runs"), *flags[:at], *flags[at + 2 :]]
        sweep = subprocess.Popen(
            [sys.executable, "-m", "lsp", "sweep", *flags],
            cwd=ROOT,
            env=environment() | {mark: "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        late = time.monotonic() + 60
        while len(processes_with(mark)) < 2 and sweep.poll() is None:  # until it has a worker
            assert time.monotonic() < late
            time.sleep(0.005)
        assert sweep.poll() is None, sweep.communicate()
        time.sleep(number * 0.1)
        sweep.kill()
        sweep.communicate()
        while left := processes_with(mark):
            assert time.monotonic() < late, left
            time.sleep(0.05)
    figure(18, f"{tried} of {tried} sweeps killed in their first second left no worker")
