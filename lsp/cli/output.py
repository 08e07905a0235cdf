"""What the command line prints: nothing that it prints, or cannot print, ends a training."""

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any

from lsp.errors import RunWarning, shown

UNREAD = 141
"""Exit code where the reader of the output is gone, as shells give it (128 + SIGPIPE)."""


def replace_what_cannot_be_printed() -> None:
    """A letter that an output's encoding lacks becomes a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


@contextmanager
def log_in_lines() -> Iterator[None]:
    """A line for each message of the package's logger."""
    from lsp.training.progress import say

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(BrokenPipeError):  # the next report of progress finds it, and saves
                say(shown(self.format(record)))

    log = logging.getLogger("lsp")
    before = log.level, log.propagate, log.handlers
    log.setLevel(logging.INFO)
    log.propagate, log.handlers = False, [Lines()]
    try:
        yield
    finally:
        log.setLevel(before[0])
        log.propagate, log.handlers = before[1:]


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """What a run survives is said each time; all other warnings as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        show = warnings.showwarning

        def show_ours(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if not issubclass(category, RunWarning):
                return show(message, category, *rest, **more)
            print_error(f"warning: {message}")

        warnings.showwarning = show_ours
        yield


def print_error(message: str) -> None:
    """A line on stderr, which may be on a disk that is full, or on a terminal that is gone."""
    with suppress(OSError):
        print(f"lsp: {shown(message)}", file=sys.stderr, flush=True)


def flush() -> None:
    """Write what was printed. Raises OSError, but where the terminal is gone."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        forget_stdout()


def forget_stdout() -> None:
    """Its reader is gone: the interpreter is not to find that out once more when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
