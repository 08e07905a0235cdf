"""Which settings this user wrote: a run's may name code to import, and a stranger's must not.

A seal is a keyed hash (HMAC) of a file, in another one beside it. The key never leaves the user's
own data folder, so that nobody else can make one.
"""

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from lsp.errors import UserError
from lsp.runs.files import data_folder, read_bytes, write_bytes

_KEY_BYTES = 32


def seal(path: Path) -> None:
    """Mark a file as this user's own, as it is now; nothing where no key can be kept. Raises
    OSError where the seal cannot be written."""
    if key := _key():
        write_bytes(_beside(path), _hash(key, path))


def sealed(path: Path) -> bool:
    """Whether a file is as this user sealed it."""
    key = _key()
    try:
        return bool(key) and hmac.compare_digest(read_bytes(_beside(path)), _hash(key, path))
    except (OSError, UserError):
        return False


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".seal")


def _hash(key: bytes, path: Path) -> bytes:
    return hmac.digest(key, read_bytes(path), "sha256").hex().encode()


def _key() -> bytes:
    """This user's, made at first use; empty where there is no place for it."""
    try:
        path = data_folder() / "key"
        if not path.exists():
            _make_key(path)
        key = read_bytes(path)
    except (OSError, UserError, RuntimeError):  # no home, or not one to write to
        return b""
    return key if len(key) == _KEY_BYTES else b""


def _make_key(path: Path) -> None:
    """Whole or not at all, and the first one counts where two processes make it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"key-{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
    with suppress(FileExistsError):
        os.link(scratch, path)
    scratch.unlink()
