"""One process at a time in a run's folder."""

import os
import socket
import sys
from pathlib import Path
from typing import IO

from lsp.errors import UserError
from lsp.runs.files import check_own_file

if sys.platform != "win32":
    import fcntl

_HELD: set[Path] = set()  # by this process, which the system would let in again


class Lock:
    """A lock that ends with the process that holds it, however it ends.

    Of the kind that worker processes and compilers do not inherit, so that none of them can keep
    it. `acquire` may be called again by whoever holds it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Raises UserError where another process, or another part of this one, holds it."""
        if self._file is not None:
            return
        path = self.path.resolve()
        if path in _HELD:
            raise self._refusal(f"process {os.getpid()}, this one")
        check_own_file(self.path)
        file = self.path.open("a+")
        try:
            if sys.platform != "win32":
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip()
            file.close()
            raise self._refusal(holder) from None
        except OSError:
            file.close()
            raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self._file = file
        _HELD.add(path)

    @property
    def is_held(self) -> bool:
        """Whether this one holds it, and the file that others look at is still the same."""
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except OSError:
            return False

    def release(self) -> None:
        if self._file is not None:
            _HELD.discard(self.path.resolve())
            self._file.close()
            self._file = None

    def _refusal(self, holder: str) -> UserError:
        return UserError(
            f"{self.path.parent} is being trained already ({holder}): stop that one, or choose "
            "another --logdir"
        )
