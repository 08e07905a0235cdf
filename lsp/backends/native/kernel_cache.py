"""Compiled kernels on disk: in a folder of this user alone, each file with its SHA-256 beside it.

What is cut short would end the process that calls it (SIGBUS), and what somebody else wrote would
run as this user: both are found before a file is loaded.
"""

import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PATIENCE = 360  # seconds that another builder is waited for


class Unusable(Exception):
    """Why nothing can be kept on disk, in a few words."""


def kept(name: str, build: Callable[[Path], None]) -> Path:
    """The file `name` of the cache; where it is missing or not as it was written, `build` makes it,
    once however many processes ask at once.

    Raises Unusable where others can write to the cache, or this process cannot, and what `build`
    raises.
    """
    try:
        path = _folder() / name
        if _verifies(path):
            return path
        with _one_builder(path):
            if not _verifies(path):  # nobody has made it meanwhile
                _make(path, build)
            if not _verifies(path):
                raise Unusable(f"{path} does not hold what was written to it")
        return path
    except OSError as error:
        raise Unusable(f"{error.filename or name}: {error.strerror or error}") from error


def _folder() -> Path:
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise Unusable(f"there is no cache folder ({error})") from error
    folder = cache / "lsp"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_others(folder, folder.stat())
    if not os.access(folder, os.W_OK):
        raise Unusable(f"{folder} cannot be written to")
    return folder


def _refuse_others(path: Path, status: os.stat_result) -> None:
    """Raises Unusable for what somebody else owns, or can write to."""
    if os.name != "posix":
        return
    if status.st_uid != os.getuid():
        raise Unusable(f"{path} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unusable(f"others can write to {path} (chmod go-w)")


def _verifies(path: Path) -> bool:
    """Whether a file is there, as it was written. Raises Unusable where it is somebody else's."""
    content, expected = _read(path), _read(_sum_of(path))
    return bool(content) and hashlib.sha256(content).hexdigest().encode() == expected


def _read(path: Path) -> bytes:
    """Empty where there is no such file."""
    # Without O_NONBLOCK a pipe of that name would be waited for.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _refuse_others(path, status)
        if not stat.S_ISREG(status.st_mode):
            raise Unusable(f"{path} is no file")
        return file.read()


def _sum_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _make(path: Path, build: Callable[[Path], None]) -> None:
    """Under other names first; what a killed builder left under them is replaced."""
    made, listed = path.with_name(f"new-{path.name}"), path.with_name(f"new-{_sum_of(path).name}")
    try:
        for old in (made, listed):
            old.unlink(missing_ok=True)
        build(made)
        made.chmod(0o700)  # whatever the umask is
        listed.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        listed.chmod(0o600)
        for new, final in ((made, path), (listed, _sum_of(path))):
            _sync(new)
            new.replace(final)
        _sync(path.parent)
    finally:
        with suppress(OSError):
            made.unlink(missing_ok=True)
            listed.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _one_builder(path: Path) -> Iterator[None]:
    """While the block runs no other process builds; the lock ends with the process that holds it.

    Raises OSError where the file system has no locks, and Unusable where a builder does not end.
    """
    if sys.platform == "win32":
        raise Unusable("there are no file locks")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path.with_suffix(".lock"), flags, 0o600)
    try:
        _refuse_others(path.with_suffix(".lock"), os.fstat(descriptor))
        late = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > late:
                    raise Unusable(f"another process has been building {path} for long") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
