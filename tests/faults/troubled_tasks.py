"""Tasks with something wrong, for `--task tests.faults.troubled_tasks:NanReward`."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from tests.own_tasks import Reach

STEP = 7  # of an episode after the first, at which something happens to it


class Troubled(Reach):
    """Reach, until step `STEP` after its fourth reset: it is tried before it is trained in."""

    begun = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.begun += 1
        return super().reset(seed=seed, options=options)

    @property
    def due(self) -> Any:
        return self.begun >= 4 and self.time == STEP

    def bad(self, observation: Any) -> Any:
        return observation


class NanObservation(Troubled):
    value = np.nan

    def observe(self) -> Any:
        seen = super().observe()
        return seen | {"goal": np.full(2, self.value)} if self.due else seen


class InfObservation(NanObservation):
    value = np.inf


class NanReward(Troubled):
    value = np.nan

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, self.value if self.due else reward, *rest


class InfReward(NanReward):
    value = -np.inf


class Raises(Reach):
    """In every episode: a new process does not mend it."""

    def step(self, action: Any) -> Any:
        given = super().step(action)
        if self.time == STEP:
            raise ZeroDivisionError("no way")
        return given


class Unrepeatable(Reach):
    """What it does depends on more than seed and actions; it says so."""

    metadata = Reach.metadata | {"repeatable": False}
    drawn = np.random.default_rng()

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=int(self.drawn.integers(2**31)), options=options)


class Undeclared(Unrepeatable):
    """The same, but it does not say so."""

    metadata = Reach.metadata


class WrongShape(Reach):
    def observe(self) -> Any:
        return super().observe() | {"position": np.zeros(3)}


class WrongDtype(Reach):
    def observe(self) -> Any:
        return super().observe() | {"position": np.array(["left", "right"])}


class WrongImage(Reach):
    def __init__(self) -> None:
        super().__init__(pictures=True)

    def observe(self) -> Any:
        return super().observe() | {"image": np.zeros((32, 32, 3), np.float32)}


class MissingKey(Reach):
    def observe(self) -> Any:
        return {"position": super().observe()["position"]}


class Unbounded(Reach):
    action_space = Box(-np.inf, np.inf, (2,), np.float64)


class DiscreteActions(Reach):
    action_space = Discrete(4)


class DiscreteObservations(Reach):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Dict({"place": Discrete(3)})
