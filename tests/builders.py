"""What many tests start from: settings, networks, batches, states; the same for the same seed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lsp.config import Config, make_config, validated
from lsp.experiments.sweep.planned_run import PlannedRun
from lsp.models.encoders import Shapes
from lsp.models.networks import Networks
from lsp.models.world_model import Latent

SHAPES: Shapes = {"position": (5,)}
ACTIONS = 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def change(config: Config, **parts: Any) -> Config:
    """`config` with fields of its parts replaced: change(config, skills={"dim": 0})."""
    return replace(config, **{k: replace(getattr(config, k), **v) for k, v in parts.items()})


@contextmanager
def short_episodes() -> Iterator[None]:
    """dm_control's episodes end after 100 env steps, a tenth of what they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsp.envs.dmc.MAX_CONTROL_STEPS", 100)
        yield


def short_run(method: str = "lsp", task: str = "walker_walk", **settings: Any) -> Config:
    """A debug run of 25 agent steps an episode, where `short_episodes` are dm_control's, which is
    evaluated once at its end. `settings` are top-level fields."""
    config = make_config(method, "debug", task=task, action_repeat=4, **settings)
    return change(config, schedule={"eval_every": 0, "prior_episodes": 0})


def make_networks(
    method: str = "lsp",
    shapes: Shapes = SHAPES,
    action_dim: int = ACTIONS,
    preset: str = "debug",
    **parts: Any,
) -> Networks:
    """Networks of a method with a model; `parts` change its settings, as in `change`."""
    torch.manual_seed(0)
    return Networks(shapes, action_dim, validated(change(make_config(method, preset), **parts)))


def make_batch(
    config: Config, shapes: Shapes = SHAPES, actions: int = ACTIONS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random rows in the middle of episodes, as the replay samples them."""
    rng, size = np.random.default_rng(seed), (config.replay.batch, config.replay.length)
    observations = {
        f"obs/{key}": rng.integers(0, 256, (*size, *shape)).astype(np.uint8)
        if len(shape) == 3
        else rng.normal(size=(*size, *shape)).astype(np.float32)
        for key, shape in shapes.items()
    }
    return observations | {
        "action": rng.uniform(-1, 1, (*size, actions)).astype(np.float32),
        "reward": rng.uniform(0, 1, size).astype(np.float32),
        "is_first": np.zeros(size, bool),
        "is_terminal": np.zeros(size, bool),
    }


def make_latent(networks: Networks, count: int = 6) -> Latent:
    """Some states of the model."""
    model = networks.config.model
    deter = torch.randn(count, model.deter, generator=seeded(1)).tanh()
    return Latent(deter, torch.randn(count, model.stoch, generator=seeded(2)))


def source_of(run: PlannedRun) -> PlannedRun:
    """The run that a transfer starts from."""
    assert run.source is not None
    return run.source


def linear(net: nn.Sequential, index: int = -1) -> nn.Linear:
    """A layer that is linear, the last of an MLP for one."""
    layer = net[index]
    assert isinstance(layer, nn.Linear)
    return layer
