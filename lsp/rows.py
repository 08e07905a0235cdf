"""How observations are called in the rows of a replay: `obs/KEY`, beside actions and rewards."""

from collections.abc import Mapping
from typing import TypeVar

Array = TypeVar("Array")
_PREFIX = "obs/"


def is_observation(name: str) -> bool:
    """Whether that is the name of an observation in a row."""
    return name.startswith(_PREFIX)


def as_rows(observation: Mapping[str, Array]) -> dict[str, Array]:
    """Observations by the names that they have in rows."""
    return {f"{_PREFIX}{key}": value for key, value in observation.items()}


def observations(rows: Mapping[str, Array]) -> dict[str, Array]:
    """Those of some rows, by their own keys; the inverse of `as_rows`."""
    return {
        name.removeprefix(_PREFIX): value for name, value in rows.items() if is_observation(name)
    }
