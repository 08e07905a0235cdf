"""An episode as arrays, what makes it one, and the file that holds it."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from lsp.errors import UserError
from lsp.rows import is_observation
from lsp.runs.files import entries, read_arrays, write_arrays

Episode = dict[str, np.ndarray]

_DTYPES = {
    "action": np.float32,
    "reward": np.float32,
    "is_first": np.bool_,
    "is_terminal": np.bool_,
    "env_steps": np.int32,
}
_RUN = "run_id"
"""Beside the rows of an episode: whose it is."""


class AnotherRun(UserError):
    """An episode lies in a folder that it was not collected for."""


def read_episode(path: Path, run: str, only: Collection[str] | None = None) -> Episode:
    """All arrays of a stored episode, or ``only`` some, where they are there.

    Raises:
      AnotherRun: it is not of the run with the id ``run``.
      UserError: it cannot be read.
      ValueError: an array is not as ``Replay.add`` writes it.
    """
    arrays = read_arrays(path, None if only is None else {*only, _RUN})
    found = arrays.pop(_RUN, np.zeros(0, np.uint8)).tobytes().decode("ascii", "replace")
    if found != run:
        raise AnotherRun(f"{path} is of another run ({found!r:.20}, not {run!r}): remove it")
    return _as_stored(arrays)


def write_episode(path: Path, run: str, episode: Episode) -> None:
    """Raises OSError where there is no room for it."""
    write_arrays(path, episode | {_RUN: np.frombuffer(run.encode(), np.uint8)})


def kind(rows: np.ndarray) -> str:
    """Type and shape of a row."""
    return f"{rows.dtype}{list(rows.shape[1:])}"


def _as_stored(arrays: Episode) -> Episode:
    """The arrays of a file; raises ValueError where one is not as ``Replay.add`` writes it."""
    for key, rows in arrays.items():
        wanted = _DTYPES.get(key, rows.dtype)
        if rows.ndim == 0 or rows.dtype.kind not in "fiub" or rows.dtype != wanted:
            raise ValueError(f"'{key}' is {rows.dtype}{list(rows.shape)}")
    return arrays


def checked(episode: Episode) -> Episode:
    """A copy with the dtypes of ``Replay.add``; raises ValueError where something is missing."""
    missing = _DTYPES.keys() - episode.keys()
    if missing or not any(map(is_observation, episode)):
        raise ValueError(f"the episode lacks {sorted(missing) or 'observations (obs/<key>)'}")
    taken = {key: np.array(rows, dtype=_DTYPES.get(key)) for key, rows in episode.items()}
    for key, rows in taken.items():
        if is_observation(key) and rows.dtype == np.float64:
            taken[key] = rows.astype(np.float32)
    lengths = {key: len(rows) for key, rows in taken.items()}
    if len(set(lengths.values())) != 1 or min(lengths.values()) == 0:
        raise ValueError(f"the episode's arrays must have the same number of rows, got {lengths}")
    is_first = taken["is_first"]
    if not is_first[0] or is_first[1:].any():
        raise ValueError("is_first must be true in row 0 of the episode and nowhere else")
    return taken


def episode_path(directory: Path, index: int) -> Path:
    """Of an episode by its number."""
    return directory / f"episode-{index:06d}.npz"


def episode_files(directory: Path) -> list[Path]:
    """Of all episodes, in order."""
    return entries(directory, "episode-*[0-9].npz")
