"""Signals that ask for an end: SIGINT, SIGTERM, and SIGHUP, which a closing terminal sends."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDINGS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
APART = 1.0  # seconds: a second signal before that belongs to the first, as of a double Ctrl-C


@contextmanager
def calling(handler: Callable[[int], None], once: bool = False) -> Iterator[None]:
    """Signals that ask for an end call `handler`, where they can be handled; with `once` the first
    of them alone, and a later one does what it did before. None counts within a second of the
    first. A handler should raise nothing: an exception inside of `subprocess` could leave its locks
    held."""
    first: float | None = None

    def handle(number: int, frame: object) -> None:
        nonlocal first
        if first is not None and time.monotonic() - first < APART:
            return
        if first is not None and once:
            restore()
            signal.raise_signal(number)
            return
        first = time.monotonic() if first is None else first
        handler(number)

    def restore() -> None:
        for each, earlier in before.items():
            signal.signal(each, earlier)

    try:
        before = {each: signal.signal(each, handle) for each in ENDINGS if not _is_nohup(each)}
    except ValueError:  # not in the main thread, where signals cannot be handled
        yield
        return
    try:
        yield
    finally:
        restore()


def _is_nohup(number: signal.Signals) -> bool:
    """Whether `nohup` has switched that signal off, so that the terminal may close."""
    return number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN
