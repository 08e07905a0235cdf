"""Row 16: memory and open files over hours (`make soak`); here, over seconds."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from processes import Training, children, command, metric_lines

CAPACITY = {True: 4000, False: 600}  # agent steps; both are filled within minutes
MINUTES = float(os.environ.get("LSP_SOAK_MINUTES", "120"))


def memory(pid: Any) -> Any:
    """Resident bytes of a process and of those it started."""
    pages = 0
    for each in (pid, *children(pid)):
        pages += int((Path("/proc") / str(each) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: Any) -> Any:
    return len(os.listdir(f"/proc/{pid}/fd"))


def watch(training: Any, minutes: Any, pause: Any) -> Any:
    """(hours, bytes, open files), row by row."""
    began, rows = time.monotonic(), []
    while (hours := (time.monotonic() - began) / 3600) < minutes / 60:
        assert training.process.poll() is None, training.text
        pid = training.process.pid
        rows.append((hours, memory(pid), open_files(pid)))
        time.sleep(pause)
    return np.array(rows)


def full(training: Any, capacity: Any) -> Any:
    """Whether the replay holds as many agent steps as it can."""
    steps = max((line["env_steps"] for line in metric_lines(training.folder)), default=0)
    return steps > 2 * capacity


def test_row_16_memory_and_open_files_stay_as_they_are(
    tmp_path: Any, count: Any, figure: Any
) -> None:
    long = count(False, True)
    flags = {"task": "walker_walk", "replay__capacity": CAPACITY[long]}
    if long:
        # As people train: the preset's own settings. One thread, so that it can share a machine.
        arguments = ["train", "--task", "walker_walk", "--steps", "1000000000"]
        arguments += ["--threads", "1", "--replay.capacity", str(CAPACITY[long])]
        arguments += ["--logdir", str(tmp_path / "run")]
    else:
        arguments = command(tmp_path / "run", **flags)
    training = Training(tmp_path / "run", *arguments)
    training.wait_for(lambda: full(training, CAPACITY[long]), pause=1)
    training.wait_for_checkpoint(after=2 * CAPACITY[long])
    rows = watch(training, MINUTES if long else 0.06, pause=10 if long else 0.1)
    steps = metric_lines(training.folder)[-1]["env_steps"]
    stopping = training.stop()
    hours, used, files = rows.T
    slope = 100 * np.polyfit(hours, used, 1)[0] / used.mean()
    if long:  # said before anything is held to it
        figure(16, f"{hours[-1]:.2f} hours with the replay full, {steps} env steps: memory "
               f"{used.mean() / 1e6:.0f} MB on average, slope {slope:+.2f} % an hour")  # fmt: skip
        figure(16, f"open files {files.min():.0f}, while it writes up to {files.max():.0f}")
        assert slope < 1
    else:
        assert np.median(used[-10:]) < 1.05 * np.median(used[:10])
    # A file that is being written is open for a moment; one that is never closed stays.
    early, late = np.split(files, [len(files) // 2])
    assert late.min() <= early.min()
    assert np.median(late) <= np.median(early)
    assert stopping < 10
