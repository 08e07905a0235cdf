"""Experience replay: whole episodes in immutable files, and a ring of rows in memory.

Row t of an episode holds observation t, the action that *led to* it, and the reward on arrival
(Dreamer v1). A row is one agent step.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lsp.errors import UserError, warn
from lsp.training.episode_files import (
    ROWS,
    SHORT,
    AnotherRun,
    Episode,
    checked,
    episode_files,
    episode_path,
    kind,
    numbers,
    read_episodes,
    write_episodes,
)

# Kept in the files only: learning never reads them, relabelling goes through the files.
_FILE_ONLY = ("env_steps", "sim_state")
_FIRST_GROWTH = 1024  # rows
_MOST_WAITING = 100  # episodes that wait in memory for room on the disk
_DAMAGED = "damaged"  # folder that damaged files are moved to


class Replay:
    """Stores episodes and draws chunks of them.

    With a ``capacity`` (in rows) the oldest rows are overwritten once it is reached; with None
    memory grows as needed. Files are never deleted for lack of room. With ``directory`` None
    nothing is written, and what only files hold (``sim_state``) is dropped.

    ``run`` is the id of the run whose episodes these are, which is in every file.

    ``lost`` are the numbers of episodes whose files are damaged or gone.

    Raises:
      UserError: the directory already holds episodes (use ``Replay.load``).
      ValueError: ``capacity`` is less than 1.
    """

    def __init__(self, directory: Path | None, capacity: int | None, run: str = ""):
        self._start(directory, capacity, run)
        if directory is not None and episode_files(directory):
            raise UserError(
                f"{directory} already holds episodes; resume that run or name another directory."
            )

    def _start(self, directory: Path | None, capacity: int | None, run: str) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity must be at least 1 row, not {capacity}")
        self._directory, self._run = directory, run
        self._capacity = capacity
        self._rows: dict[str, np.ndarray] = {}
        self._kinds: dict[str, str] = {}
        self._allocated = 0
        self._next = 0  # where the next row goes; the ring's seam, once it is full
        self._size = 0
        self._unsettled = False
        self._waiting: list[list[Episode]] = []  # those that one file will hold
        self._open = False  # whether the last file to be may take more
        self.lost: set[int] = set()
        self.num_episodes = 0
        self.num_env_steps = 0
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    @classmethod
    def load(
        cls, directory: Path, capacity: int | None, num_episodes: int, run: str = ""
    ) -> "Replay":
        """The replay as it was after its first ``num_episodes`` episodes: same rows, same samples.

        Later files are ignored, and removed by the next ``add``; loading alone changes no file.
        Damaged and missing files are left out, named in a warning; the next ``add`` moves the
        damaged ones to ``damaged/``.

        Raises:
          UserError: no file can be read, one is of another run, or an episode is longer than
            ``capacity``.
        """
        replay = cls.__new__(cls)
        replay._start(directory, capacity, run)
        replay._unsettled = True
        replay.num_episodes = num_episodes
        replay._refuse_if_most_is_missing()
        problems: list[str] = []
        files = replay._files(problems)
        lengths = [replay._count_steps(path, problems) for path in files]
        for path in files[_first_needed(lengths, capacity) :]:
            if numbers(path).start not in replay.lost:
                replay._restore(path, problems)
        replay._say_what_is_lost(problems)
        return replay

    @classmethod
    def load_all(cls, directory: Path, run: str = "") -> "Replay":
        """All episodes of a directory that nothing is added to any more.

        Raises:
          UserError: there is none, no file can be read, or one is of another run.
        """
        files = episode_files(directory)
        if not files:
            raise UserError(f"{directory} holds no episodes: restore it")
        return cls.load(directory, None, numbers(files[-1]).stop, run)

    @classmethod
    def stream(cls, directory: Path, num_episodes: int, run: str = "") -> Iterator[Episode]:
        """What ``load`` would load, an episode at a time: no more than one is in memory.

        Raises:
          UserError: no file can be read, or one is of another run.
        """
        replay = cls.__new__(cls)
        replay._start(directory, None, run)
        replay.num_episodes = num_episodes
        replay._refuse_if_most_is_missing()
        problems: list[str] = []
        for path in replay._files(problems):
            yield from replay._read(path, problems)
        replay._say_what_is_lost(problems)

    def _refuse_if_most_is_missing(self) -> None:
        assert self._directory is not None
        folders = self._directory, self._directory / _DAMAGED
        present = sum(len(numbers(path)) for each in folders for path in episode_files(each))
        if 2 * present < self.num_episodes:
            raise UserError(
                f"{self._directory} holds {present} of {self.num_episodes} episodes: restore them, "
                "or name the folder of another run"
            )

    def _files(self, problems: list[str]) -> list[Path]:
        """Those of the first ``num_episodes`` episodes. What is in none of them is lost."""
        assert self._directory is not None
        aside = episode_files(self._directory / _DAMAGED)
        known = {number for path in aside for number in numbers(path)}
        files: list[Path] = []
        reached = 0
        for path in episode_files(self._directory):
            held = numbers(path)
            if held.start >= reached and held.stop <= self.num_episodes:
                self._miss(range(reached, held.start), known, problems)
                files.append(path)
                reached = held.stop
        self._miss(range(reached, self.num_episodes), known, problems)
        return files

    def _miss(self, missing: range, known: set[int], problems: list[str]) -> None:
        """Episodes without a file; those ``known`` to be damaged have been told of."""
        assert self._directory is not None
        self.lost.update(missing)
        paths = (episode_path(self._directory, each) for each in missing if each not in known)
        problems.extend(f"{path} is missing" for path in paths)

    def _count_steps(self, path: Path, problems: list[str]) -> int:
        """Rows of a file, 0 where it is lost; its env steps are added to the sum."""
        try:
            episodes = read_episodes(path, self._run, only=("env_steps",))
            steps = [episode["env_steps"] for episode in episodes if "env_steps" in episode]
            if len(steps) < len(episodes):
                raise ValueError("it lacks env_steps")
        except AnotherRun:
            raise
        except (UserError, ValueError) as error:
            self._lose(path, error, problems)
            return 0
        self.num_env_steps += sum(int(each.sum()) for each in steps)
        return sum(map(len, steps))

    def _restore(self, path: Path, problems: list[str]) -> None:
        for episode in self._read(path, problems):
            self._check_length(episode, str(path))
            self._remember(episode)

    def _read(self, path: Path, problems: list[str]) -> list[Episode]:
        """The episodes of a file; none where it is lost."""
        try:
            episodes = [checked(each) for each in read_episodes(path, self._run)]
            for episode in episodes:
                self._check_kinds(episode, "it")
        except AnotherRun:
            raise
        except (UserError, ValueError) as error:
            self._lose(path, error, problems)
            return []
        return episodes

    def _lose(self, path: Path, error: Exception, problems: list[str]) -> None:
        self.lost.update(numbers(path))
        named = isinstance(error, UserError)
        problems.append(str(error) if named else f"{path} is no episode of this run ({error})")

    def _say_what_is_lost(self, problems: list[str]) -> None:
        if not problems:
            return
        some = "; ".join(problems[:3]) + ("; ..." if len(problems) > 3 else "")
        if len(self.lost) == self.num_episodes:
            raise UserError(
                f"none of {self.num_episodes} episodes in {self._directory} can be read ({some}): "
                "restore them, or name the folder of another run"
            )
        warn(f"{len(self.lost)} of {self.num_episodes} episodes are left out: {some}")

    def __len__(self) -> int:
        """Rows held in memory, at most ``capacity``."""
        return self._size

    def add(self, episode: Episode) -> None:
        """Adds a whole episode, in memory and on disk.

        Args:
          episode: arrays of T+1 rows: ``obs/<key>``, ``action`` float32 [T+1, A] (zeros in row 0),
            ``reward`` float32 (on arrival; 0 in row 0), ``is_first`` and ``is_terminal`` bool,
            ``env_steps`` int32 (control steps taken to arrive; 0 in row 0), where known
            ``sim_state`` float64 [T+1, repeat, S], and whatever else the agent notes of each
            action, the same keys in every episode. float64 observations are stored as float32,
            images stay uint8. Arrays are copied.

        Short episodes wait in memory for others to share a file with, and all do while the disk is
        full: ``store`` writes them.

        Raises:
          UserError: the episode does not fit into ``capacity``, or 100 of them wait for room.
          ValueError: an array is missing, or its rows or shape do not fit the others.
        """
        episode = checked(episode)
        self._check_length(episode, f"episode {self.num_episodes}")
        self._check_kinds(episode, f"episode {self.num_episodes}")
        self._remember(episode)
        self.num_episodes += 1
        self.num_env_steps += int(episode["env_steps"].sum())
        if self._directory is None:
            return
        self._wait(episode)
        try:
            if not self._open:
                self.store()
        except OSError as error:
            self._wait_for_room(error)

    def _wait(self, episode: Episode) -> None:
        """Short episodes share a file with those before and after them."""
        if self._open and _arrays(self._waiting[-1][0]) == _arrays(episode):
            self._waiting[-1].append(episode)
        else:
            self._waiting.append([episode])
        rows = sum(len(each["is_first"]) for each in self._waiting[-1])
        self._open = len(episode["is_first"]) < SHORT and rows < ROWS

    def store(self) -> None:
        """Write the episodes that wait. Raises OSError where there is no room."""
        while self._waiting:
            self._settle()
            write_episodes(self._next_path, self._run, self._waiting[0])
            self._waiting.pop(0)
        self._open = False

    @property
    def _stored(self) -> int:
        """Episodes that are in files, or were."""
        return self.num_episodes - sum(map(len, self._waiting))

    @property
    def _next_path(self) -> Path:
        assert self._directory is not None
        return episode_path(self._directory, self._stored, len(self._waiting[0]))

    def _wait_for_room(self, error: OSError) -> None:
        count, path = len(self._waiting), self._next_path
        if count >= _MOST_WAITING:
            raise UserError(
                f"{path} cannot be written ({error.strerror}), and {count} episodes wait for room: "
                "free some, then the same command resumes from the last checkpoint"
            ) from error
        warn(
            f"{path} cannot be written ({error.strerror}): it waits in memory, with "
            f"{count - 1} more, and is tried again with the next episode"
        )

    def sample(
        self, batch: int, length: int, rng: np.random.Generator, newest: int | None = None
    ) -> dict[str, np.ndarray]:
        """Draws chunks of consecutive rows, uniformly over all of them or the `newest` alone.

        Chunks may span episode ends, where ``is_first`` is set; none spans the ring's seam.

        Returns:
          [batch, length, ...] per key: ``obs/<key>``, ``action``, ``reward``, ``is_first``,
          ``is_terminal``, the agent's notes. The arrays are copies.

        Raises:
          UserError: fewer than ``length`` rows are stored.
        """
        size = self._size if newest is None else min(newest, self._size)
        if size < length:
            raise UserError(
                f"The replay holds {size} rows, too few for sequences of {length}: "
                "collect more before learning, or use shorter sequences."
            )
        starts = rng.integers(size - length + 1, size=(batch, 1))
        oldest = self._next - size
        index = (oldest + starts + np.arange(length)) % self._allocated
        return {key: rows[index] for key, rows in self._rows.items()}

    def episodes(self) -> Iterator[Episode]:
        """All episodes ever added but the lost ones, oldest first, whole, read from their files.

        Raises:
          UserError: the replay has no directory, or a file has become unreadable.
        """
        if self._directory is None:
            raise UserError("This replay keeps no files: give it a directory to read episodes.")
        for path in episode_files(self._directory):
            held = numbers(path)
            if held.stop <= self._stored and held.start not in self.lost:
                yield from read_episodes(path, self._run)
        yield from (episode for together in list(self._waiting) for episode in together)

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

    def _check_length(self, episode: Episode, name: str) -> None:
        count = len(episode["is_first"])
        if self._capacity is not None and count > self._capacity:
            raise UserError(
                f"The replay's capacity of {self._capacity} rows is less than {name} "
                f"with its {count} rows: raise the capacity."
            )

    def _check_kinds(self, episode: Episode, name: str) -> None:
        """Against those of the first episode that was checked."""
        new = {key: kind(rows) for key, rows in episode.items() if key not in _FILE_ONLY}
        old = self._kinds = self._kinds or new
        for key in sorted(new.keys() | old.keys()):
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

    def _settle(self) -> None:
        """Removes what a run that was resumed from before left behind; sets damaged files aside."""
        if not self._unsettled or self._directory is None:
            return
        for path in episode_files(self._directory):
            held = numbers(path)
            if held.stop > self._stored:
                path.unlink()
            elif held.start in self.lost:
                (self._directory / _DAMAGED).mkdir(exist_ok=True)
                path.rename(self._directory / _DAMAGED / path.name)
        self._unsettled = False


def _arrays(episode: Episode) -> dict[str, str]:
    return {key: kind(rows) for key, rows in episode.items()}


def _first_needed(lengths: list[int], capacity: int | None) -> int:
    """The oldest file of which rows are still in a ring of ``capacity`` rows."""
    if capacity is None:
        return 0
    rows = 0
    for index in reversed(range(len(lengths))):
        rows += lengths[index]
        if rows >= capacity:
            return index
    return 0
