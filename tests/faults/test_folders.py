"""Rows 17 and 19 to 21: damaged kernels, strangers' folders, other runs' files, killed films."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, Training, command, environment, steps_saved, train_here

from lsp.backends.native.kernel_cache import kept
from lsp.cli.main import main

STEPS = 400


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `a` and `b`."""
    folder = tmp_path_factory.mktemp("trained")
    for seed, name in enumerate("ab"):
        train_here(folder / name, STEPS, seed=seed)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def test_row_17_damaged_kernels_are_compiled_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Any, figure: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rng, compiled = random.Random(0), []

    def build(path: Path) -> None:
        compiled.append(path)
        path.write_bytes(bytes(range(256)) * 8)

    path, tried = kept("kernels.so", build), count(10, 200)
    for number in range(tried):
        damaged = rng.choice([path, path.with_name("kernels.so.sha256")])
        content = bytearray(damaged.read_bytes())
        if number % 2:
            del content[rng.randrange(len(content)) :]
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(7)
        damaged.write_bytes(content)
        for _ in range(2):
            assert kept("kernels.so", build).read_bytes() == bytes(range(256)) * 8
        assert len(compiled) == 2 + number
    figure(17, f"{tried} of {tried} files cut short or flipped were found and compiled again, once")


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """What waits for a pipe is interrupted."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(arguments: Any, capsys: Any) -> str:
    """How a command ended: well, or with one line of ours."""
    capsys.readouterr()
    code: Any = 0
    try:
        with at_most(60):
            main([str(each) for each in arguments])
    except SystemExit as stopped:
        code = stopped.code
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if not line.startswith("lsp: warning: ")]
    assert (code, len(errors)) in ((0, 0), (2, 1)), lines
    return "refused" if code else "went on"


KINDS: dict[str, Any] = {
    "a pipe": os.mkfifo,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a folder": os.mkdir,
    "an endless file": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**42),
}


def test_row_19_files_that_are_none(runs: Path, capsys: Any, count: Any, figure: Any) -> None:
    newest = sorted((runs / "a" / "checkpoints").iterdir())[-1].relative_to(runs / "a")
    names = [newest / path.name for path in sorted((runs / "a" / newest).iterdir())]
    names += [Path("config.json"), Path("config.json.seal"), Path("run.json"), Path("lock")]
    names += [Path("spaces.json"), Path("metrics.jsonl"), Path("episodes/episode-000000.npz")]
    cases = [(name, kind) for name in names for kind in KINDS]
    cases = cases[:: count(9, 1)]
    ends = []
    for number, (name, kind) in enumerate(cases):
        run = runs / f"{number}"
        shutil.copytree(runs / "a", run)
        (run / name).unlink(missing_ok=True)
        KINDS[kind](run / name)
        ends.append(outcome(["eval", run, "--episodes", 1], capsys))
        ends.append(outcome(command(run, STEPS + 20), capsys))
        shutil.rmtree(run)
    text = f"{len(cases)} of {len(cases)} files that were pipes, devices, folders or endless: "
    figure(19, f"{text}{ends.count('refused')} commands refused, the others did without")


def test_row_20_files_of_another_run(runs: Path, capsys: Any, figure: Any) -> None:
    newest = sorted((runs / "b" / "checkpoints").iterdir())[-1]
    foreign = runs / "a" / "checkpoints" / "step-000009999"
    shutil.copytree(newest, foreign)
    assert outcome(["eval", runs / "a"], capsys) == "refused"
    assert outcome(command(runs / "a", STEPS + 20), capsys) == "refused"
    shutil.rmtree(foreign)
    name = "episodes/episode-000000.npz"
    shutil.copy(runs / "b" / name, runs / "a" / name)
    assert outcome(command(runs / "a", STEPS + 20), capsys) == "refused"
    figure(20, "a checkpoint and an episode of another run: refused")


def test_row_20_a_lock_removed_from_under_a_trainer(tmp_path: Path, figure: Any) -> None:
    training = Training(tmp_path / "run", *command(tmp_path / "run"))
    training.wait_for_checkpoint()
    (tmp_path / "run" / "lock").unlink()
    assert training.finish() == 2, training.text
    said = f"its lock was removed .* and saved at {steps_saved(tmp_path / 'run')[0]} env steps"
    training_said = training.text.splitlines()[-1]
    assert re.search(said, training_said), training.text
    figure(20, "a lock removed from under a trainer: it saved and stopped, with one line")


def test_row_21_a_killed_film_leaves_the_old_one(tmp_path: Path, count: Any, figure: Any) -> None:
    film = tmp_path / "video.mp4"
    text = (
        "import sys, numpy; from pathlib import Path; from lsp.report.video import VideoWriter\n"
        "with VideoWriter(Path(sys.argv[1]), 30.0) as film:\n"
        "    while True:\n"
        "        film.add(numpy.zeros((64, 64, 3), numpy.uint8)); print(flush=True)\n"
    )
    tried = count(1, 8)
    for number in range(tried):
        film.write_text("old")
        filming = subprocess.Popen(
            [sys.executable, "-c", text, str(film)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment(),
        )
        assert filming.stdout is not None
        for _ in range(1 + 20 * number):
            filming.stdout.readline()
        filming.kill()
        filming.communicate()
        assert film.read_text() == "old"
    figure(21, f"{tried} of {tried} killed films left the old one as it was")
