"""When things are due, how fast a run goes, and what a listener is told of it."""

import time
from typing import NamedTuple


class Progress(NamedTuple):
    """What a listener is told at every log line, and while the first updates are made.

    Attributes:
        env_steps: taken so far.
        total_steps: to be taken in all.
        episode_return: of the last whole training episode; None before the first.
        eval_return: of the last evaluation; None before the first.
        steps_per_second: env steps, since the last report.
        first_updates: how many of how many are made, while no env steps are taken.
    """

    env_steps: int
    total_steps: int
    episode_return: float | None
    eval_return: float | None
    steps_per_second: float
    first_updates: tuple[int, int] | None = None


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
        now = time.monotonic()
        rate = (env_steps - self.env_steps) / max(now - self.began_rate, 1e-9)
        self.env_steps, self.began_rate = env_steps, now
        return rate
