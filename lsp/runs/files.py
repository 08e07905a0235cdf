"""Files that are whole or absent, and that are read without trusting them: JSON and arrays.

Reading runs no code from a file, takes no more memory than the file has bytes, and raises nothing
but UserError, whatever the bytes are.
"""

import fnmatch
import io
import json
import os
import stat
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lsp.errors import UserError, said

MOST_BYTES = 2**33
"""Of a file that is read at all: an episode or weights beyond this are nobody's."""
MOST_JSON = 2**26


def opened(path: Path, most: int = MOST_BYTES) -> io.BufferedReader:
    """A file to read. Reading a pipe may never begin, and reading a device never end.

    Raises UserError where `path` is no file or larger than `most` bytes, and OSError as `open`.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no file: it is not opened")
    if status.st_size > most:
        raise UserError(f"{path} has {status.st_size:,} bytes, more than {most:,}: it is not read")
    return path.open("rb")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """What a file holds. Raises as `opened`."""
    with opened(path, most) as file:
        return file.read(most)


def check_own_file(path: Path) -> None:
    """Raises UserError where writing to `path` would write elsewhere, wait or never end."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UserError(f"{path} is no file: it is not opened")


def expanded(path: str | Path) -> Path:
    """As a shell reads it: `~` and environment variables in their places. Raises UserError for what
    is no path."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UserError(f"a file or folder is named by its path, not by {path!r}")
    return Path(os.path.expandvars(path)).expanduser()


def file_to_write(path: str | Path, flag: str) -> Path:
    """`path`, expanded, before there is anything to write. Raises UserError where it cannot be."""
    path = expanded(path)
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {path.parent}")
    return path


def data_folder() -> Path:
    """This user's own, which may not be there yet. Raises RuntimeError where nobody has a home."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "latent-skill-planning"


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content`; a crash leaves the old file or the new one. Raises OSError."""
    scratch = path.with_name(path.name + ".tmp")
    try:
        scratch.unlink(missing_ok=True)
        with scratch.open("xb") as file:  # never through a link that somebody put there
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path`, of the same kind, for what others write: renamed to `path` when the
    block ends, and removed where it fails. A crash leaves the old file or the new one."""
    scratch = path.with_name(f"{path.stem}.tmp{path.suffix}")
    scratch.unlink(missing_ok=True)
    try:
        yield scratch
        if scratch.exists():
            sync(scratch)
            os.replace(scratch, path)
            sync(path.parent)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, making folders that lack; a crash leaves the old file or the new one.
    Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content`; a crash leaves the old file or the new one. Raises OSError."""
    text = json.dumps(content, indent=1)
    write_bytes(path, text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError naming `path` where it is missing or holds none."""
    try:
        content = json.loads(read_bytes(path, MOST_JSON))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({said(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object)")
    return content


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an `.npz` with a checksum for each array; a crash leaves the old file or the new one.
    Raises OSError."""
    packed = io.BytesIO()  # a full disk must not leave numpy with an archive it cannot close
    np.savez(packed, allow_pickle=False, **arrays)
    write_bytes(path, packed.getbuffer())


def read_arrays(path: Path, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays that `write_arrays` wrote, or `only` those of some names that are there.

    Raises UserError naming `path` where it is missing, damaged, or holds Python objects.
    """
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_sizes(members, os.fstat(file.fileno()).st_size)
            named = {member.filename.removesuffix(".npy"): member for member in members}
            names = named if only is None else [name for name in named if name in only]
            return {name: _array(archive.read(named[name])) for name in names}
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except UserError:
        raise
    except Exception as error:  # parsers of damaged files stumble in all sorts of ways
        raise UserError(f"{path} is damaged ({said(error)})") from error


def _check_sizes(members: list[zipfile.ZipInfo], available: int) -> None:
    """What is packed, or claims to be larger than its file, could fill the memory."""
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > available:
        raise ValueError("it claims to hold more than it does")


def _array(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    if file.tell() != len(data):
        raise ValueError("an array is followed by something else")
    return array


def entries(folder: Path, pattern: str) -> list[Path]:
    """What in `folder` is named by `pattern`, in order; nothing where there is no such folder.

    Raises UserError where there is one that cannot be read: it is not empty for that.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from error
    return [folder / name for name in sorted(fnmatch.filter(names, pattern))]


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, survive a power cut."""
    if path.is_dir() and os.name != "posix":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
