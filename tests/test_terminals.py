"""Terminals that close, readers that go away, letters that cannot be printed: no run is lost."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from forked import Forked, command_on_terminal

import lsp
from lsp.cli.main import main
from lsp.training import signals
from lsp.training.progress import say

DEBUG = "--preset debug --task cartpole_balance --no-compile --threads 1 --schedule.eval-every 0"


def flags(folder: Path, steps: int) -> list[str]:
    return f"train {DEBUG} --schedule.log-every 100 --steps {steps} --logdir {folder}".split()


def saved(folder: Path) -> int:
    """Env steps of the newest checkpoint."""
    return max(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("command", ["train --help", "transfer --help", "tasks"])
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_letter_that_cannot_be_printed_is_a_question_mark(
    command: str, encoding: str, monkeypatch: Any
) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding=encoding))
    with suppress(SystemExit):
        main(command.split())
    assert len(printed.getvalue().decode(encoding)) > 500


def test_a_line_of_progress_loses_a_letter_and_is_no_error(monkeypatch: Any) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="ascii"))
    say("30 env steps · return 2")
    assert printed.getvalue() == b"30 env steps ? return 2\n"


def test_a_second_signal_within_a_second_is_the_first_ones() -> None:
    received: list[int] = []
    with signals.calling(received.append, once=True):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGINT]


def test_a_later_signal_counts(monkeypatch: Any) -> None:
    received: list[int] = []
    monkeypatch.setattr(signals, "APART", 0.01)
    with signals.calling(received.append, once=True):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.05)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with signals.calling(received.append):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.05)
        signal.raise_signal(signal.SIGHUP)
    assert received == [signal.SIGTERM, signal.SIGTERM, signal.SIGHUP]


def test_nohup_is_left_alone() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.calling(received.append):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert received == []


def test_a_terminal_that_closes_does_not_lose_the_run(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = flags(tmp_path / "run", 10**6)
    end = Path(os.ttyname(theirs))
    run = Forked(command_on_terminal, arguments, end, Path.cwd(), os.environ)
    seen = b""
    while not re.search(rb"\d\d\d/1,000,000 env steps", seen):
        seen += os.read(ours, 10_000)
    os.close(theirs)
    os.close(ours)  # the kernel sends SIGHUP
    assert run.wait(60) == 0
    assert saved(tmp_path / "run") > 0


def test_a_reader_that_goes_away_ends_the_run_saved(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lsp", *flags(tmp_path / "run", 10**6)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stderr is not None
    while b"env steps" not in run.stdout.readline():
        pass
    run.stdout.close()
    with run.stderr:
        said = run.stderr.read().decode()
    assert run.wait(60) == 141
    assert saved(tmp_path / "run") > 0
    assert "stopped and saved. To resume: " in said
    assert said.count("\n") == 1


def test_a_listener_that_fails_ends_the_run_saved(tmp_path: Path) -> None:
    def listen(progress: lsp.Progress) -> None:
        raise ZeroDivisionError("by the listener")

    config = lsp.make_config("lsp", "debug", task="cartpole_balance", **{"schedule.log_every": 100})
    runtime = lsp.RuntimeConfig(threads=1, compile=False)
    with pytest.raises(ZeroDivisionError, match="by the listener"):
        lsp.train(config, tmp_path / "run", 10_000, runtime, listen)
    assert saved(tmp_path / "run") == 100
