"""Floating-point operations that an update needs, by formula.

Only matrix products and convolutions count, two operations for each multiplication that is added
up. A layer's backward pass takes as many again for the gradient of its input, and as many for
that of its weights; those that nothing needs are left out.
"""

from typing import NamedTuple

from torch import nn

from lsp.models.layers import MLP, ConvDecoder, ConvEncoder
from lsp.models.networks import Networks

IMAGE = 64  # pixels a side


class UpdateFlops(NamedTuple):
    """Operations of each part of one update; the planner's are 0 without skills."""

    world_model: int
    planner: int
    behavior: int

    @property
    def total(self) -> int:
        return sum(self)


def update_flops(networks: Networks) -> UpdateFlops:
    """Operations of one update at the sizes of `networks.config`."""
    return UpdateFlops(2 * _world_model(networks), 2 * _planner(networks), 2 * _behavior(networks))


def _world_model(networks: Networks) -> int:
    """Multiplications: every layer forward and both ways backward, but for the images' and
    vectors' own gradient."""
    model, states = networks.world_model, _states(networks)
    first = sum(_first(part) for part in model.encoder.children())
    count = states * (3 * multiplications(model) - first)
    decoded = networks.config.model.decoded_images
    if decoded is not None and model.decoder.images:
        count -= max(0, states - decoded) * 3 * multiplications(model.decoder.conv)
    return count


def _planner(networks: Networks) -> int:
    config = networks.config
    if not config.plans_skills:
        return 0
    planner, starts = config.planner, config.behavior.num_starts or _states(networks)
    if config.has_proposal:
        return starts * multiplications(networks.proposal)
    rollouts = planner.num_iterations * planner.num_candidates * starts
    if planner.refit == "gradient":  # forth and back, which is as much again
        climbing = 2 * planner.num_iterations * planner.num_elites
        rollouts = (planner.num_candidates + climbing) * starts
    step = multiplications(networks.policy) + _dynamics(networks) + _heads(networks)
    return rollouts * planner.horizon * step


def _behavior(networks: Networks) -> int:
    config = networks.config
    if config.plans_actions:
        return 0
    starts = config.behavior.num_starts or _states(networks)
    rollouts = starts * config.behavior.rollouts_per_start
    policy, value = multiplications(networks.policy), multiplications(networks.value)
    # The weights of dynamics and heads get no gradient, the states that a value learns from none.
    step = 3 * policy + 2 * (_dynamics(networks) + _heads(networks))
    if config.policy.stop_input_gradient:
        step -= _first(networks.policy.net)
    count = rollouts * config.behavior_horizon * step
    if config.policy.entropy > 0:  # the policy is asked once more in every state
        again = 3 * policy - config.policy.stop_input_gradient * _first(networks.policy.net)
        count += rollouts * config.behavior_horizon * again
    fit = 3 * value - _first(networks.value.net)
    if config.value.states == "observed":
        # s_0 of every rollout, and all rows but the last of a sequence; all with the slow copy.
        count += rollouts * fit + _states(networks) * value
        count += (_states(networks) - config.replay.batch) * fit
    else:
        count += rollouts * config.behavior_horizon * fit
    if config.num_segments:
        predictor, forward = networks.skill_predictor, config.skills.estimator == "forward"
        # χ is asked once, with gradients to its own weights and, if it pays, to the states.
        ask = 3 * multiplications(predictor) - forward * _first(predictor.net)
        count += rollouts * config.num_segments * ask
        if forward:
            count += _forward(networks, rollouts, step - 2 * _heads(networks))
    if config.has_proposal:
        fit = 3 * multiplications(networks.proposal) - _first(networks.proposal.net)
        count += (_states(networks) - config.replay.batch) * fit
    return count


def _forward(networks: Networks, rollouts: int, step: int) -> int:
    """Every complete segment of a rollout under the skills of all rollouts of its start, each as
    costly as a step of imagination that is learned from."""
    config = networks.config
    steps = config.num_segments * config.planner.skill_length
    return rollouts * config.behavior.rollouts_per_start * steps * step


def _states(networks: Networks) -> int:
    return networks.config.replay.batch * networks.config.replay.length


def _dynamics(networks: Networks) -> int:
    rssm = networks.world_model.rssm
    return multiplications(rssm) - multiplications(rssm.posterior_head)


def _heads(networks: Networks) -> int:
    return sum(multiplications(head) for head in networks.heads)


def multiplications(module: nn.Module) -> int:
    """Of one forward pass of one row: each weight of a matrix once, each of a kernel once for
    every place that it is laid on."""
    matrices = sum(x.numel() for x in module.parameters() if x.dim() == 2)
    return matrices + sum(sum(_convolutions(part)) for part in module.modules())


def _convolutions(module: nn.Module) -> list[int]:
    """Multiplications of each layer of a convolutional encoder or decoder."""
    counts = []
    if isinstance(module, ConvEncoder | ConvDecoder):
        side = IMAGE if isinstance(module, ConvEncoder) else 1
        for layer in module.layers:
            if isinstance(layer, nn.Conv2d):
                side = (side - layer.kernel_size[0]) // layer.stride[0] + 1
                counts.append(layer.weight.numel() * side**2)
            elif isinstance(layer, nn.ConvTranspose2d):
                counts.append(layer.weight.numel() * side**2)
                side = (side - 1) * layer.stride[0] + layer.kernel_size[0]
    return counts


def _first(module: nn.Module) -> int:
    """Multiplications of the layer that reads the input."""
    if isinstance(module, ConvEncoder):
        return _convolutions(module)[0]
    assert isinstance(module, MLP)
    return next(x.numel() for x in module.parameters() if x.dim() == 2)
