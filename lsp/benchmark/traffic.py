"""Bytes that an update must move through memory at least, by formula.

What is kept from the forward pass for the backward pass is written once and read once; a parameter
that is learned is read and written with its gradient and Adam's two averages. What stays in a
core's cache, such as the states of a plan that is only judged, does not count.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from lsp.models.layers import ConvDecoder, ConvEncoder
from lsp.models.networks import Networks

FLOAT = 4  # bytes
OPTIMISED = 8  # numbers moved for each that is learned: weight, gradient, two averages, both ways


class Traffic(NamedTuple):
    """Bytes of each part of one update."""

    world_model: int
    planner: int
    behavior: int


def update_traffic(networks: Networks, dtype: torch.dtype) -> Traffic:
    """Of one update at the sizes of `networks.config`, with activations in `dtype`."""
    config, model, size = networks.config, networks.world_model, dtype.itemsize
    states = config.replay.batch * config.replay.length
    world = 2 * size * states * kept([model]) + _optimised([model])
    if config.plans_actions:
        return Traffic(world, 0, 0)
    starts = config.behavior.num_starts or states
    rows = starts * config.behavior.rollouts_per_start * config.behavior_horizon
    learned: list[nn.Module] = [networks.policy, networks.value]
    if config.has_intrinsic:
        learned.append(networks.skill_predictor)
    imagined = kept([networks.policy, model.rssm, *networks.heads])
    behavior = 2 * size * rows * imagined + _optimised(learned)
    plans = starts * config.planner.num_candidates * config.planner.num_iterations
    planner = size * plans * config.plan_length * config.skills.dim if config.plans_skills else 0
    return Traffic(world, planner, behavior)


def kept(modules: Iterable[nn.Module]) -> int:
    """Numbers that layers give for one row, which the backward pass needs again."""
    parts = [part for module in modules for part in module.modules()]
    vectors = sum(part.out_features for part in parts if isinstance(part, nn.Linear))
    cells = sum(4 * part.hidden_size for part in parts if isinstance(part, nn.GRUCell))
    return vectors + cells + sum(_pictures(part) for part in parts)


def _pictures(module: nn.Module) -> int:
    """Numbers in the outputs of a convolutional network's layers, for one picture."""
    if not isinstance(module, ConvEncoder | ConvDecoder):
        return 0
    side, count = 64 if isinstance(module, ConvEncoder) else 1, 0
    for layer in module.layers:
        if isinstance(layer, nn.Conv2d):
            side = (side - layer.kernel_size[0]) // layer.stride[0] + 1
        elif isinstance(layer, nn.ConvTranspose2d):
            side = (side - 1) * layer.stride[0] + layer.kernel_size[0]
        else:
            continue
        count += layer.out_channels * side**2
    return count


def _optimised(modules: Iterable[nn.Module]) -> int:
    return FLOAT * OPTIMISED * sum(x.numel() for m in modules for x in m.parameters())
