"""What a user is meant to see when something is wrong: an exception, and a warning."""

import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class UserError(Exception):
    """Something the user can fix: one line that says what is wrong, where, and what to do.

    The command line prints the message and exits with code 2; from Python it is raised as it is.
    """


class NotFinite(UserError):
    """Learning or acting gave NaN or infinity; `arrays` are what they were given."""

    def __init__(self, message: str, arrays: Mapping[str, Any]):
        super().__init__(message)
        self.arrays = arrays


class RunWarning(UserWarning):
    """Something that a run survived: one line, which the command line prints."""


def warn(message: str) -> None:
    """Say that something went wrong while the run goes on."""
    warnings.warn(message, RunWarning, stacklevel=3)


@contextmanager
def exit_is_an_error() -> Iterator[None]:
    """Around a user's code, which may call sys.exit: that would end a command without a word."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code!r})") from error


def shown(text: str) -> str:
    """Text for a terminal: what steers one, and hides or turns text, is escaped."""
    return "".join(x if x.isprintable() else repr(x)[1:-1] for x in text)


def is_out_of_memory(error: BaseException) -> bool:
    """Python's, numpy's and PyTorch's own errors of that kind."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text)
    )


def said(error: BaseException) -> str:
    """What an exception says, in one line; of one that says nothing, where it was raised."""
    message = " ".join(str(error).split())
    if not message and (frames := traceback.extract_tb(error.__traceback__)):
        message = f"{frames[-1].filename}, line {frames[-1].lineno}"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
