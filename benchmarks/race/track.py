"""What every contestant is given, and measured by: the task, a clock, and evaluations.

A contestant's script trains by its own loop in environments of a `Track`. The track counts the env
steps of all of them. Where a mark has been passed it stops the clock and evaluates; when the time
is over it ends the loop from within.
"""

import argparse
import csv
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from lsp.envs import make_env

ACTION_REPEAT = 2
EPISODES = 10
"""Of an evaluation. They begin in the same ten states for every contestant, every time."""
FIRST_SEED = 1000
COLUMNS = ("env_steps", "minutes", "eval_return", "episodes")
MINUTES = (10, 20, 30, 45, *range(60, 24 * 60, 30))
"""Minutes of training after which there is an evaluation; and one at the end."""
STEPS = (10_000, 20_000, 50_000, *range(100_000, 10_000_000, 100_000))
"""Env steps after which there is one, too: fast contestants have more points."""

Act = Callable[[Any, bool], np.ndarray]
"""The action for an observation, without exploration; an episode begins where the flag is true."""
Env = gymnasium.Env[Any, Any]


class Finished(BaseException):
    """The time is over. No loop that handles exceptions is meant to handle this one."""


class Entry(NamedTuple):
    """Who trains on what, for how long, and where it is written."""

    agent: str
    task: str
    seed: int
    minutes: float
    threads: int
    out: Path
    """The finished CSV."""
    folder: Path
    """For whatever else the contestant writes."""
    clone: Path | None = None
    """Its code, where no registry has it."""

    def arguments(self) -> list[str]:
        """The command line that `read_entry` reads."""
        given = {name: value for name, value in self._asdict().items() if value is not None}
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def read_entry(arguments: Sequence[str] | None = None) -> Entry:
    parser = argparse.ArgumentParser()
    for name, kind in (("agent", str), ("task", str), ("seed", int), ("minutes", float)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--threads", type=int, required=True)
    for name in ("out", "folder", "clone"):
        parser.add_argument(f"--{name}", type=Path, required=name != "clone")
    return Entry(**vars(parser.parse_args(arguments)))


class Track:
    """The clock starts when it is made. `act` is set once there is an agent.

    With `flat` the environments show all measurements as one vector, as most agents take them.
    """

    def __init__(self, entry: Entry, flat: bool = True) -> None:
        self.entry, self.flat = entry, flat
        self.act: Act | None = None
        self.env_steps = 0
        self._part = entry.out.with_suffix(".part")
        self._part.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
        self._place = self._task()
        self._last = (0, 0.0)
        self._began = time.monotonic()

    def make_env(self) -> Env:
        """An environment to train in."""
        return _Counted(self._task(), self)

    def run(self, train: Callable[[], object]) -> None:
        """Trains until the time is over; only then there is a CSV."""
        try:
            train()
        except Finished:
            self._part.rename(self.entry.out)
            return
        raise SystemExit(f"{self.entry.agent} stopped training by itself")

    def tick(self) -> None:
        """Looks at the clock; to be called wherever long work can be interrupted."""
        minutes = (time.monotonic() - self._began) / 60
        (steps_before, minutes_before), self._last = self._last, (self.env_steps, minutes)
        over = minutes >= self.entry.minutes
        if (
            over
            or _passed(MINUTES, minutes_before, minutes)
            or _passed(STEPS, steps_before, self.env_steps)
        ):
            self._measure(minutes)
        if over:
            raise Finished

    def _measure(self, minutes: float) -> None:
        began = time.monotonic()
        row = (self.env_steps, f"{minutes:.3f}", f"{self._evaluate():.2f}", EPISODES)
        with self._part.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        print(*row, flush=True)
        self._began += time.monotonic() - began

    def _evaluate(self) -> float:
        """The mean return of whole episodes, one after the other."""
        assert self.act is not None
        total = 0.0
        for seed in range(FIRST_SEED, FIRST_SEED + EPISODES):
            observation, _ = self._place.reset(seed=seed)
            first, done = True, False
            while not done:
                action = self.act(observation, first)
                observation, reward, terminated, truncated, _ = self._place.step(action)
                first, done = False, terminated or truncated
                total += float(reward)
        return total / EPISODES

    def _task(self) -> Env:
        env = make_env(self.entry.task, action_repeat=ACTION_REPEAT)
        return Flat(env) if self.flat else env


class _Counted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Tells the track of every step."""

    def __init__(self, env: Env, track: Track) -> None:
        super().__init__(env)
        self._track = track

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        given = self.env.step(action)
        self._track.env_steps += given[-1]["env_steps"]
        self._track.tick()
        return given


class Flat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One vector of all measurements, float32, and of `info` only what the track reads."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        size = sum(int(np.prod(box.shape or ())) for box in env.observation_space.values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return _joined(self.env.reset(seed=seed, options=options)[0]), {}

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        kept = {"env_steps": info["env_steps"]}
        return _joined(observation), reward, terminated, truncated, kept


def _joined(observation: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([value.ravel() for value in observation.values()])


def _passed(marks: Sequence[int], before: float, now: float) -> bool:
    return bisect_right(marks, now) > bisect_right(marks, before)
