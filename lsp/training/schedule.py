"""When things are due, how fast a run goes, and what a listener is told of it."""

import time
from collections.abc import Callable
from typing import Literal, NamedTuple

HEARTBEAT = 30.0  # seconds between two reports, at most

Phase = Literal["collecting", "learning begins", "learning", "evaluating"]


class Progress(NamedTuple):
    """What a listener is told, at every log line and at least every 30 seconds or so.

    Attributes:
        env_steps: taken so far.
        total_steps: to be taken in all.
        episode_return: of the last whole training episode; None before the first.
        eval_return: of the last evaluation; None before the first.
        steps_per_second: env steps, since the last report.
        first_updates: how many of how many are made, while no env steps are taken.
        phase: what the run is doing. Before it learns its speed says nothing of what is left.
    """

    env_steps: int
    total_steps: int
    episode_return: float | None
    eval_return: float | None
    steps_per_second: float
    first_updates: tuple[int, int] | None = None
    phase: Phase = "learning"


class Listener:
    """Passes progress on until that fails, which stops the run; `problem` is how it failed."""

    def __init__(self, listen: Callable[[Progress], None], stop: Callable[[], None]):
        self._listen, self._stop = listen, stop
        self.problem: Exception | None = None

    def __call__(self, progress: Progress) -> None:
        """Pass it on."""
        if self.problem is not None:
            return
        try:
            self._listen(progress)
        except Exception as error:  # it is raised once the run is saved
            self.problem = error
            self._stop()

    def raise_problem(self) -> None:
        """Raise what it failed with, if it did."""
        if self.problem is not None:
            raise self.problem


def both(
    first: Callable[[Progress], None], second: Callable[[Progress], None]
) -> Callable[[Progress], None]:
    """Tells two listeners, one after the other."""

    def listen(progress: Progress) -> None:
        first(progress)
        second(progress)

    return listen


class Reports:
    """Passes progress on, and knows when the last report was too long ago."""

    def __init__(self, listen: Callable[[Progress], None]):
        self._listen = listen
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether nothing was told for too long."""
        return time.monotonic() - self._last >= HEARTBEAT

    def tell(self, progress: Progress) -> None:
        """Tell the listener."""
        self._last = time.monotonic()
        self._listen(progress)


class Due:
    """Whether a multiple of some number of env steps has just been passed."""

    def __init__(self, before: int, now: int):
        self.before, self.now = before, now

    def __call__(self, every: int) -> bool:
        """Whether that was a multiple of `every`; never where it is 0."""
        return every > 0 and self.now // every > self.before // every


class Clock:
    """Seconds spent, and env steps per second, since the last lap."""

    def __init__(self, env_steps: int):
        self.last = self.began = time.monotonic()
        self.env_steps = env_steps
        self.began_rate = self.last

    def lap(self) -> float:
        """Seconds since the last lap, which ends now."""
        now = time.monotonic()
        self.last, elapsed = now, now - self.last
        return elapsed

    def rate(self, env_steps: int) -> float:
        """Env steps a second since the last call, at `env_steps` now."""
        rate = self.rate_so_far(env_steps)
        self.env_steps, self.began_rate = env_steps, time.monotonic()
        return rate

    def rate_so_far(self, env_steps: int) -> float:
        """The same, and the next call measures from the same moment."""
        return (env_steps - self.env_steps) / max(time.monotonic() - self.began_rate, 1e-9)
