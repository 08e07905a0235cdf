"""Experience replay: whole episodes, one immutable file each, and a ring of rows in memory.

Row t of an episode holds observation t, the action that *led to* it, and the reward on arrival
(Dreamer v1). A row is one agent step.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lsp.errors import UserError

Episode = dict[str, np.ndarray]

_DTYPES = {
    "action": np.float32,
    "reward": np.float32,
    "is_first": np.bool_,
    "is_terminal": np.bool_,
    "env_steps": np.int32,
}
# Kept in the files only: learning never reads them, relabelling goes through the files.
_FILE_ONLY = ("env_steps", "sim_state")
_FIRST_GROWTH = 1024  # rows


class Replay:
    """Stores episodes and draws chunks of them.

    With a ``capacity`` (in rows) the oldest rows are overwritten once it is reached; with None
    memory grows as needed. Files are never deleted for lack of room. With ``directory`` None
    nothing is written, and what only files hold (``sim_state``) is dropped.

    Raises:
      UserError: the directory already holds episodes (use ``Replay.load``).
      ValueError: ``capacity`` is less than 1.
    """

    def __init__(self, directory: Path | None, capacity: int | None):
        self._start(directory, capacity)
        if directory is not None and _episode_files(directory):
            raise UserError(
                f"{directory} already holds episodes; resume that run or name another directory."
            )

    def _start(self, directory: Path | None, capacity: int | None) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity must be at least 1 row, not {capacity}")
        self._directory = directory
        self._capacity = capacity
        self._rows: dict[str, np.ndarray] = {}
        self._allocated = 0
        self._next = 0  # where the next row goes; the ring's seam, once it is full
        self._size = 0
        self._stale_files = False
        self.num_episodes = 0
        self.num_env_steps = 0
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    @classmethod
    def load(cls, directory: Path, capacity: int | None, num_episodes: int) -> "Replay":
        """The replay as it was after its first ``num_episodes`` episodes: same rows, same samples.

        Later files are ignored, and removed by the next ``add``; loading alone changes no file.

        Raises:
          UserError: a file is missing, unreadable, or longer than ``capacity``.
        """
        replay = cls.__new__(cls)
        replay._start(directory, capacity)
        replay._stale_files = True
        lengths = []
        for index in range(num_episodes):
            steps = _read(_path(directory, index), only="env_steps")["env_steps"]
            lengths.append(len(steps))
            replay.num_env_steps += int(steps.sum())
        for index in range(_first_needed(lengths, capacity), num_episodes):
            replay._remember(replay._restore(_path(directory, index)))
        replay.num_episodes = num_episodes
        return replay

    def __len__(self) -> int:
        """Rows held in memory, at most ``capacity``."""
        return self._size

    def add(self, episode: Episode) -> None:
        """Adds a whole episode, on disk first.

        Args:
          episode: arrays of T+1 rows: ``obs/<key>``, ``action`` float32 [T+1, A] (zeros in row 0),
            ``reward`` float32 (on arrival; 0 in row 0), ``is_first`` and ``is_terminal`` bool,
            ``env_steps`` int32 (control steps taken to arrive; 0 in row 0), where known
            ``sim_state`` float64 [T+1, repeat, S], and whatever else the agent notes of each
            action, the same keys in every episode. float64 observations are stored as float32,
            images stay uint8. Arrays are copied.

        Raises:
          UserError: the episode does not fit into ``capacity``.
          ValueError: an array is missing, or its rows or shape do not fit the others.
        """
        episode = _checked(episode)
        self._check_fits(episode, f"episode {self.num_episodes}")
        if self._directory is not None:
            self._remove_stale_files()
            _write(_path(self._directory, self.num_episodes), episode)
        self._remember(episode)
        self.num_episodes += 1
        self.num_env_steps += int(episode["env_steps"].sum())

    def sample(self, batch: int, length: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws chunks of consecutive rows, uniformly over all rows that a chunk can start from.

        Chunks may span episode ends, where ``is_first`` is set; none spans the ring's seam.

        Returns:
          [batch, length, ...] per key: ``obs/<key>``, ``action``, ``reward``, ``is_first``,
          ``is_terminal``, the agent's notes. The arrays are copies.

        Raises:
          UserError: fewer than ``length`` rows are stored.
        """
        if self._size < length:
            raise UserError(
                f"The replay holds {self._size} rows, too few for sequences of {length}: "
                "collect more before learning, or use shorter sequences."
            )
        starts = rng.integers(self._size - length + 1, size=(batch, 1))
        oldest = self._next - self._size
        index = (oldest + starts + np.arange(length)) % self._allocated
        return {key: rows[index] for key, rows in self._rows.items()}

    def episodes(self) -> Iterator[Episode]:
        """All episodes ever added, oldest first, whole, read from their files one by one.

        Raises:
          UserError: the replay has no directory, or a file is missing or unreadable.
        """
        if self._directory is None:
            raise UserError("This replay keeps no files: give it a directory to read episodes.")
        for index in range(self.num_episodes):
            yield _read(_path(self._directory, index))

    def _remember(self, episode: Episode) -> None:
        """Appends an episode's rows to the ring, over the oldest ones if it is full."""
        kept = {key: rows for key, rows in episode.items() if key not in _FILE_ONLY}
        count = len(kept["is_first"])
        self._make_room(kept, self._size + count)
        index = (self._next + np.arange(count)) % self._allocated
        for key, rows in kept.items():
            self._rows[key][index] = rows
        self._next = (self._next + count) % self._allocated
        self._size = min(self._size + count, self._allocated)

    def _restore(self, path: Path) -> Episode:
        try:
            episode = _checked(_read(path))
            self._check_fits(episode, str(path))
        except ValueError as error:
            raise UserError(f"{path} is no episode of this run ({error}).") from error
        return episode

    def _check_fits(self, episode: Episode, name: str) -> None:
        count = len(episode["is_first"])
        if self._capacity is not None and count > self._capacity:
            raise UserError(
                f"The replay's capacity of {self._capacity} rows is less than {name} "
                f"with its {count} rows: raise the capacity."
            )
        new = {key: _kind(rows) for key, rows in episode.items() if key not in _FILE_ONLY}
        old = {key: _kind(rows) for key, rows in self._rows.items()}
        for key in sorted(new.keys() | old.keys()) if old else []:
            if new.get(key) != old.get(key):
                raise ValueError(
                    f"{name}: '{key}' is {new.get(key)} a row, in earlier episodes {old.get(key)}"
                )

    def _make_room(self, rows: Episode, needed: int) -> None:
        """Allocates the ring: all of ``capacity`` at once (untouched pages cost no memory)."""
        if self._capacity is not None:
            size = self._capacity
        else:
            size = max(self._allocated, _FIRST_GROWTH)
            while size <= needed:  # never quite full, so that the seam stays at row 0
                size *= 2
        if size == self._allocated:
            return
        grown = {key: np.empty((size, *each.shape[1:]), each.dtype) for key, each in rows.items()}
        for key, old in self._rows.items():
            grown[key][: self._size] = old[: self._size]
        self._rows, self._allocated = grown, size

    def _remove_stale_files(self) -> None:
        """Removes what a run that was resumed from before left behind."""
        if self._stale_files and self._directory is not None:
            for path in _episode_files(self._directory)[self.num_episodes :]:
                path.unlink()
            self._stale_files = False


def _kind(rows: np.ndarray) -> str:
    return f"{rows.dtype}{list(rows.shape[1:])}"


def _checked(episode: Episode) -> Episode:
    """A copy with the dtypes of ``Replay.add``; raises ValueError where something is missing."""
    missing = _DTYPES.keys() - episode.keys()
    if missing or not any(key.startswith("obs/") for key in episode):
        raise ValueError(f"the episode lacks {sorted(missing) or 'observations (obs/<key>)'}")
    checked = {key: np.array(rows, dtype=_DTYPES.get(key)) for key, rows in episode.items()}
    for key, rows in checked.items():
        if key.startswith("obs/") and rows.dtype == np.float64:
            checked[key] = rows.astype(np.float32)
    lengths = {key: len(rows) for key, rows in checked.items()}
    if len(set(lengths.values())) != 1 or min(lengths.values()) == 0:
        raise ValueError(f"the episode's arrays must have the same number of rows, got {lengths}")
    is_first = checked["is_first"]
    if not is_first[0] or is_first[1:].any():
        raise ValueError("is_first must be true in row 0 of the episode and nowhere else")
    return checked


def _first_needed(lengths: list[int], capacity: int | None) -> int:
    """The oldest episode of which rows are still in a ring of ``capacity`` rows."""
    if capacity is None:
        return 0
    rows = 0
    for index in reversed(range(len(lengths))):
        rows += lengths[index]
        if rows >= capacity:
            return index
    return 0


def _path(directory: Path, index: int) -> Path:
    return directory / f"episode-{index:06d}.npz"


def _episode_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("episode-*.npz"))


def _write(path: Path, episode: Episode) -> None:
    """Writes all or nothing: a crash leaves no half of an episode under its name."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **episode)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    # Without this a power cut can forget the file's new name; Windows cannot open directories.
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path, only: str | None = None) -> Episode:
    """An episode's arrays, or only one of them; raises UserError where the file is no good."""
    try:
        # Opened here, because np.load leaves its own handle open where it finds no archive.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {key: file[key] for key in ([only] if only else file.files)}
    except FileNotFoundError:
        raise UserError(f"{path} is missing: restore it, or start the run afresh.") from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read ({error}): restore it, or start the run afresh."
        ) from error
