"""Row 8: a disk that is full while a checkpoint, an episode and a line of metrics are written."""

import os
import resource
import subprocess
from contextlib import contextmanager
from typing import Any

import pytest
from processes import Training, command, episodes, metric_lines, steps_saved, train_here

from lsp.runs.checkpoint import load_newest
from lsp.training.episode_files import episode_files, numbers

KB = 1024


@contextmanager
def small_disk(folder: Any) -> Any:
    """A file system of its own, or a skipped test where mounting is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here; the limit on file sizes is tested")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Any) -> Any:
    """Leave no room at all. Returns what takes it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (256 * KB, KB, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return path


TROUBLES = ("no checkpoint could be written", r"episode-[\d-]+\.npz cannot be written",
            r"metrics\.jsonl cannot be written")  # fmt: skip


def check_trouble(training: Any, end_trouble: Any, figure: Any, how: Any) -> None:
    """It says what it could not write, keeps what there was, and catches up."""
    for trouble in TROUBLES:
        training.wait_for_text(trouble)
    before = load_newest(training.checkpoints)
    assert before is not None
    end_trouble()
    after = training.wait_for_checkpoint(after=before.env_steps)
    training.wait_for_checkpoint(after=after)
    assert training.stop() < 10
    assert training.process.returncode == 0, training.text
    newest = load_newest(training.checkpoints)
    assert newest is not None
    files = episode_files(training.folder / "episodes")
    stored = sum(len(numbers(path)) for path in files)
    assert stored == newest.facts["episodes"]
    assert len(set(episodes(training.folder, stored))) == stored
    logged = [
        line["env_steps"] for line in metric_lines(training.folder) if line["kind"] == "train"
    ]
    assert [each // 100 for each in logged] == list(range(1, len(logged) + 1))
    figure(8, f"{how}: checkpoint, episode and line kept and written when there was room")


def test_row_08_a_full_disk(tmp_path: Any, figure: Any) -> None:
    with small_disk(tmp_path / "disk") as disk:
        training = Training(disk / "run", *command(disk / "run"), said=tmp_path)
        training.wait_for_checkpoint(after=300)
        check_trouble(training, fill(disk).unlink, figure, "tmpfs of 16 MB filled up")


def test_row_08_a_limit_on_the_size_of_files(tmp_path: Any, figure: Any) -> None:
    training = Training(tmp_path / "run", *command(tmp_path / "run"), limited=True)
    training.wait_for_checkpoint(after=300)
    pid = training.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (3 * KB, hard))  # what it says has room so far

    def end_trouble() -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))

    check_trouble(training, end_trouble, figure, "files limited to 3 KB")


def test_row_08_a_run_that_ends_on_a_full_disk_says_what_is_lost(tmp_path: Any) -> None:
    with small_disk(tmp_path / "disk") as disk:
        training = Training(disk / "run", *command(disk / "run"), said=tmp_path)
        training.wait_for_checkpoint(after=300)
        filler = fill(disk)
        training.wait_for_text(TROUBLES[0])
        assert training.stop() < 10
        assert training.process.returncode == 2
        last = training.text.splitlines()[-1]
        assert "no checkpoint could be written (No space left on device)" in last
        assert f"lost back to the checkpoint at {steps_saved(disk / 'run')[0]}" in last
        filler.unlink()
        train_here(disk / "run", steps_saved(disk / "run")[0] + 200)
