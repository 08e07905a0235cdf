"""Signals that ask for an end, counted."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def counted_signals() -> Iterator[list[int]]:
    """Those of SIGINT and SIGTERM that came, where they can be handled. They raise nothing: an
    exception inside of `subprocess` could leave its locks held."""
    came: list[int] = []
    handled = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {
            each: signal.signal(each, lambda number, _: came.append(number)) for each in handled
        }
    except ValueError:  # not in the main thread
        yield came
        return
    try:
        yield came
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
