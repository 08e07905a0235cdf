"""Shapes and types are checked in every test, but where that would only take time."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import jaxtyping

T = TypeVar("T")


@contextmanager
def unchecked() -> Iterator[None]:
    """What is called in it has been checked elsewhere."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def mostly_unchecked(steps: Iterable[T]) -> Iterator[T]:
    """Goes through them; after the third, what is called in the loop is not checked any more."""
    for number, step in enumerate(steps):
        with nullcontext() if number < 3 else unchecked():
            yield step


def check_everything() -> None:
    jaxtyping.config.update("jaxtyping_disable", False)
