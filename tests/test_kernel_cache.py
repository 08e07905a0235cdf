"""The cache of compiled kernels: whole files of this user alone, built once."""

import os
import stat
import subprocess
import sys
from ctypes import CDLL
from pathlib import Path
from typing import Any

import pytest

import lsp.backends.native.build as building
from lsp.backends.native import kernel_cache
from lsp.backends.native.build import CannotBuild
from lsp.backends.native.kernel_cache import Unusable, kept
from lsp.errors import RunWarning

CONTENT = b"\x7fELF compiled"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and locks as POSIX has them")


class Builder:
    """Counts how often it builds."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, path: Path) -> None:
        self.count += 1
        path.write_bytes(CONTENT)


@pytest.fixture
def build() -> Builder:
    return Builder()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lsp"


def test_a_file_is_built_once(folder: Path, build: Builder) -> None:
    paths = {kept("kernels.so", build) for _ in range(3)}
    assert paths == {folder / "kernels.so"}
    assert (folder / "kernels.so").read_bytes() == CONTENT
    assert build.count == 1


DAMAGE: dict[str, Any] = {
    "cut short": lambda path: path.write_bytes(CONTENT[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"x" * len(CONTENT)),
    "gone": lambda path: path.unlink(),
    "its sum is gone": lambda path: path.with_name("kernels.so.sha256").unlink(),
    "its sum is cut short": lambda path: path.with_name("kernels.so.sha256").write_text("12"),
    "both empty": lambda path: (
        path.write_bytes(b""),
        path.with_name("kernels.so.sha256").write_text(""),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_built_again_once(folder: Path, build: Builder, damage: str) -> None:
    path = kept("kernels.so", build)
    DAMAGE[damage](path)
    for _ in range(2):
        assert kept("kernels.so", build).read_bytes() == CONTENT
    assert build.count == 2


def test_a_build_that_fails_leaves_the_cache_as_it_was(folder: Path) -> None:
    def half(path: Path) -> None:
        path.write_bytes(b"half")
        raise CannotBuild("no")

    with pytest.raises(CannotBuild):
        kept("kernels.so", half)
    assert [path.name for path in folder.iterdir()] == ["kernels.lock"]


def test_what_a_killed_builder_left_is_replaced(folder: Path, build: Builder) -> None:
    folder.mkdir(mode=0o700)
    (folder / "new-kernels.so").write_bytes(b"half")
    assert kept("kernels.so", build).read_bytes() == CONTENT
    assert not list(folder.glob("new-*"))


def test_others_cannot_write_to_what_is_built(folder: Path, build: Builder) -> None:
    before = os.umask(0)
    try:
        kept("kernels.so", build)
    finally:
        os.umask(before)
    for path in (folder, *folder.iterdir()):
        assert not path.stat().st_mode & 0o022, path
        assert path.stat().st_uid == os.getuid()


@pytest.mark.parametrize("name", ["", "kernels.so", "kernels.so.sha256"])
@pytest.mark.parametrize("mode", [stat.S_IWGRP, stat.S_IWOTH])
def test_what_others_can_write_to_is_not_used(
    folder: Path, build: Builder, name: str, mode: int
) -> None:
    kept("kernels.so", build)
    path = folder / name
    path.chmod(path.stat().st_mode | mode)
    with pytest.raises(Unusable, match="others can write"):
        kept("kernels.so", build)


@pytest.mark.parametrize("name", ["", "kernels.so", "kernels.so.sha256"])
def test_what_another_user_owns_is_not_used(
    folder: Path, build: Builder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without two users: one of them is who this process says that it is."""
    kept("kernels.so", build)
    foreign = (folder / name).stat().st_ino
    refuse = kernel_cache._refuse_others

    def pretend(path: Path, status: os.stat_result) -> None:
        changed = list(status)
        changed[4] += status.st_ino == foreign
        refuse(path, os.stat_result(changed))

    monkeypatch.setattr(kernel_cache, "_refuse_others", pretend)
    with pytest.raises(Unusable, match="another user"):
        kept("kernels.so", build)


@pytest.mark.parametrize("made", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_only_files_are_opened(folder: Path, build: Builder, made: Any) -> None:
    folder.mkdir(mode=0o700)
    made(folder / "kernels.so")
    with pytest.raises(Unusable):
        kept("kernels.so", build)


def test_eight_starts_at_once_build_once(folder: Path, tmp_path: Path) -> None:
    start = """
import sys, time
from pathlib import Path
from lsp.backends.native.kernel_cache import kept

def build(path):
    with open(sys.argv[1], "a") as file:
        file.write("built ")
    time.sleep(0.5)
    path.write_bytes(b"compiled")

assert kept("kernels.so", build).read_bytes() == b"compiled"
"""
    log = tmp_path / "log"
    starts = [subprocess.Popen([sys.executable, "-c", start, str(log)]) for _ in range(8)]
    assert [process.wait(60) for process in starts] == [0] * 8
    assert log.read_text() == "built "


def test_a_cache_that_cannot_be_made_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build: Builder
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(Unusable, match="Not a directory"):
        kept("kernels.so", build)


def test_a_builder_that_never_ends_is_not_waited_for(
    folder: Path, build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_cache, "PATIENCE", 0.1)
    hold = (
        "import sys, time; from lsp.backends.native.kernel_cache import kept;"
        "kept('kernels.so', lambda path: (print('building', flush=True), time.sleep(60)))"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(Unusable, match="another process"):
            kept("kernels.so", build)
        holder.kill()
    assert kept("kernels.so", build).read_bytes() == CONTENT  # its lock went with it


def test_without_a_cache_kernels_are_built_for_one_process_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    built: list[Path] = []
    monkeypatch.setattr(building, "compiler", lambda: "g++")
    monkeypatch.setattr(building, "_compile", lambda arguments, path: built.append(path))
    monkeypatch.setattr(building, "_load", lambda path: CDLL(None))
    with pytest.warns(RunWarning, match=r"others can write to .*lsp \(chmod go-w\)") as said:
        building.library.__wrapped__()
    (path,) = built
    assert folder not in path.parents
    assert not path.parent.exists()
    assert len(said) == 1


def test_torch_is_bounded_above_by_the_version_that_is_tested() -> None:
    """The kernels link one of its internal symbols, which may go with any release."""
    root = Path(__file__).parents[1]
    pins = (root / "constraints.txt").read_text().splitlines()
    (pin,) = (line.removeprefix("torch==") for line in pins if line.startswith("torch=="))
    major, minor = map(int, pin.split(".")[:2])
    assert f'"torch>=2.9,<{major}.{minor + 1}"' in (root / "pyproject.toml").read_text()
