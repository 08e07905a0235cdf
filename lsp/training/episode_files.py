"""Episodes as arrays, what makes them such, and their files: short ones share one."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from lsp.errors import UserError
from lsp.rows import is_observation
from lsp.runs.files import entries, read_arrays, write_arrays

Episode = dict[str, np.ndarray]

SHORT = 16
"""Rows of an episode below which it waits for others to share a file with."""
ROWS = 512
"""In a file, from which on it is written; a longer episode has one of its own."""
_NAME = re.compile(r"episode-\d{1,12}(-\d{1,12})?\.npz")

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


def read_episodes(path: Path, run: str, only: Collection[str] = ()) -> list[Episode]:
    """The episodes of a file; of each all arrays, or ``only`` some.

    Raises:
      AnotherRun: it is not of the run with the id ``run``.
      UserError: it cannot be read.
      ValueError: an array is not as ``Replay.add`` writes it, or there are more or fewer episodes
        than its name says.
    """
    arrays = read_arrays(path, {*only, "is_first", _RUN} if only else None)
    found = arrays.pop(_RUN, np.zeros(0, np.uint8)).tobytes().decode("ascii", "replace")
    if found != run:
        raise AnotherRun(f"{path} is of another run ({found!r:.20}, not {run!r}): remove it")
    return _split(_as_stored(arrays), len(numbers(path)))


def write_episodes(path: Path, run: str, episodes: Sequence[Episode]) -> None:
    """One after the other, all with the same arrays. Raises OSError where there is no room."""
    arrays = {key: np.concatenate([each[key] for each in episodes]) for key in episodes[0]}
    write_arrays(path, arrays | {_RUN: np.frombuffer(run.encode(), np.uint8)})


def _split(arrays: Episode, count: int) -> list[Episode]:
    """Into ``count`` episodes, each of which begins where ``is_first`` says so."""
    if count == 1:
        return [arrays]
    first = arrays.get("is_first", np.zeros(0, bool))
    begins = np.flatnonzero(first) if first.ndim == 1 else np.zeros(0, int)
    rows = {len(each) for each in arrays.values()}
    if len(begins) != count or begins[0] or rows != {len(first)}:
        raise ValueError(f"it does not hold {count} episodes")
    parts = {key: np.split(each, begins[1:]) for key, each in arrays.items()}
    return [{key: each[index] for key, each in parts.items()} for index in range(count)]


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


def episode_path(directory: Path, first: int, count: int = 1) -> Path:
    """Of a file that holds ``count`` episodes from the one with the number ``first`` on."""
    last = f"-{first + count - 1:06d}" if count > 1 else ""
    return directory / f"episode-{first:06d}{last}.npz"


def numbers(path: Path) -> range:
    """Of the episodes in a file, as its name has them."""
    first, _, last = path.stem.removeprefix("episode-").partition("-")
    return range(int(first), int(last or first) + 1)


def episode_files(directory: Path) -> list[Path]:
    """All of them, in the order of their episodes."""
    named = [path for path in entries(directory, "episode-*.npz") if _NAME.fullmatch(path.name)]
    return sorted((path for path in named if 0 < len(numbers(path)) <= ROWS), key=_first)


def _first(path: Path) -> tuple[int, int]:
    return numbers(path).start, -len(numbers(path))
