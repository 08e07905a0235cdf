"""What a checkpoint keeps of a run, so that it resumes as if it had never stopped."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsp.errors import UserError, said
from lsp.runs.checkpoint import Checkpoint
from lsp.training.averaging import AveragedWeights
from lsp.training.build import AnyAgent, AnyLearner, AnyNetworks
from lsp.training.collector import Collector
from lsp.training.running_means import RunningMeans

_MOST = 2**53
"""That anything is counted to."""


@dataclass
class Counters:
    """Where a run stands, besides its env steps."""

    updates: int = 0
    learning_since: int | None = None
    """Env steps at which learning began; None before."""
    seconds: float = 0.0
    """Spent on the run, evaluations included."""
    last_return: float | None = None
    """Of the last whole episode."""
    eval_return: float | None = None
    """Of the last evaluation."""
    owes_evaluation: bool = False
    """An evaluation was broken off, and the resumed run repeats it."""


@dataclass(frozen=True)
class RunState:
    """The parts of a run that change as it learns, apart from its episodes and metrics, which are
    files of their own. `run` is its id."""

    run: str
    networks: AnyNetworks
    averaged: AveragedWeights | None
    learner: AnyLearner
    agent: AnyAgent
    collector: Collector
    sampler: np.random.Generator
    means: RunningMeans
    counters: Counters

    def take(self, folder: Path) -> Checkpoint:
        """A checkpoint of now, for `folder`. Raises UserError where a weight is not finite."""
        optimizers = {
            f"{name}.{index}.{key}": value
            for name, optimizer in self.learner.optimizers.items()
            for index, state in optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }
        tensors = {
            "networks": dict(self.networks.state_dict()),
            "optimizers": optimizers,
            "agent": self.agent.state(),
            "learner": self.learner.state(),
            "means": self.means.sums,
        }
        if self.averaged is not None:
            tensors["averaged"] = self.averaged.state()
        for name, tensor in {**tensors["networks"], **optimizers}.items():
            if not torch.isfinite(tensor).all():
                raise UserError(f"{folder}: {name} is not finite, and not saved")
        facts = asdict(self.counters) | self.collector.facts()
        facts |= {
            "run": self.run,
            "episodes": self.collector.replay.num_episodes,
            "sampler_rng": self.sampler.bit_generator.state,
            "means_count": self.means.count,
        }
        return Checkpoint(self.collector.env_steps, tensors, self.collector.unfinished(), facts)

    def restore(self, checkpoint: Checkpoint, folder: Path, force: bool = False) -> None:
        """The inverse of `take`. With `force` an agent of another state starts from scratch.

        Raises UserError where the checkpoint is not of such a run.
        """
        try:
            self._restore(checkpoint.tensors, checkpoint.facts, checkpoint.episode, force)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{folder}: the checkpoint at {checkpoint.env_steps} env steps does not fit these "
                f"settings: {textwrap.shorten(said(error), 300)}"
            ) from error

    def _restore(
        self,
        tensors: Mapping[str, Mapping[str, Tensor]],
        facts: Mapping[str, Any],
        episode: Mapping[str, np.ndarray],
        force: bool,
    ) -> None:
        _check_counters(facts)
        self.networks.load_state_dict(tensors["networks"])
        if self.averaged is not None:
            # A run that is resumed with such a copy for the first time has it begin here.
            self.averaged.load_state(tensors.get("averaged", tensors["networks"]))
        for name, optimizer in self.learner.optimizers.items():
            state = _state_of(name, tensors["optimizers"])
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        same = _shapes(self.agent.state()) == _shapes(tensors["agent"])
        if not same and not force:
            raise ValueError("its agent has another state")
        if same:
            self.agent.load_state(tensors["agent"])
        self.learner.load_state(tensors["learner"])
        self.means.sums, self.means.count = dict(tensors["means"]), facts["means_count"]
        for name in asdict(self.counters):
            setattr(self.counters, name, facts[name])
        self.sampler.bit_generator.state = facts["sampler_rng"]
        # Episodes are continued only by an agent that remembers them.
        self.collector.restore(facts, episode, resume=same)


def _check_counters(facts: Mapping[str, Any]) -> None:
    """Raises ValueError for what no run counts: updates of -10⁹ would be made up for, for ever."""
    counts = [facts["updates"], facts["env_steps"], facts["begun"], facts["means_count"]]
    counts += [*facts["numbers"], *facts["lengths"]]
    since, env_steps = facts["learning_since"], facts["env_steps"]
    counts += [] if since is None else [since]
    if not all(type(count) is int and 0 <= count < _MOST for count in counts):
        raise ValueError("its counters are none of a run")
    if since is not None and since > env_steps:
        raise ValueError(f"it has learned since env step {since}, and has made {env_steps}")
    measured = [facts[name] for name in ("seconds", "last_return", "eval_return")]
    if not all(x is None or (type(x) in (int, float) and isfinite(x)) for x in measured):
        raise ValueError("its times or returns are no numbers")


def _state_of(name: str, optimizers: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Of one optimiser, as PyTorch has it, out of all: `NAME.INDEX.KEY`."""
    state: dict[int, dict[str, Tensor]] = {}
    for path, value in optimizers.items():
        part, index, key = path.split(".")
        if part == name:
            state.setdefault(int(index), {})[key] = value
    return state


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Without those of random generators, which are a matter of the device."""
    return {name: tensor.shape for name, tensor in tensors.items() if name != "generator"}
