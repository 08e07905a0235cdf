"""Signals that ask for an end: SIGINT and SIGTERM."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDINGS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def calling(handler: Callable[[int], None], once: bool = False) -> Iterator[None]:
    """Signals that ask for an end call `handler`, where they can be handled; with `once` the first
    of them alone. A handler should raise nothing: an exception inside of `subprocess` could leave
    its locks held."""

    def handle(number: int, frame: object) -> None:
        if once:
            restore()
        handler(number)

    def restore() -> None:
        for each, earlier in before.items():
            signal.signal(each, earlier)

    try:
        before = {each: signal.signal(each, handle) for each in ENDINGS}
    except ValueError:  # not in the main thread, where signals cannot be handled
        yield
        return
    try:
        yield
    finally:
        restore()
