"""Rolling a plan of held skills out in a world model (figure 3).

Policy and dynamics come as one function: nothing here knows a network.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.models.distributions import Normal
from lsp.models.world_model import Latent


class RolloutNoise(NamedTuple):
    """Standard normal draws behind one rollout of H steps."""

    action: Float[Tensor, "horizon *batch action"]
    latent: Float[Tensor, "horizon *batch stoch"]


Transition = Callable[[Latent, Tensor, RolloutNoise], tuple[Latent, Tensor]]
"""(latent, skill, noise of one step) → (next latent, action taken)."""


Predict = Callable[[Latent, Tensor, Tensor], tuple[Tensor, Normal]]
"""(latent, skill, action noise) → (next deter, density of the next stoch): a transition that draws
no state."""


class Rollout(NamedTuple):
    """States s_0..s_H and the actions between them."""

    feature: Float[Tensor, "states batch features"]
    action: Float[Tensor, "horizon batch action"]


def for_rows(count: int, start: Latent, noise: RolloutNoise) -> tuple[Latent, RolloutNoise]:
    """Both for `count` rollouts, of which row i shares those of row i mod s with others, of s."""
    latent = Latent(*(x.repeat(count // len(x), 1) for x in start))
    return latent, RolloutNoise(*(x.repeat(1, count // x.shape[1], 1) for x in noise))


def imagine(
    start: Latent,
    plan: Float[Tensor, "batch plan skill"],
    skill_length: int,
    transition: Transition,
    noise: RolloutNoise,
) -> Rollout:
    """Follow `plan` from every row of `start`: skill k for K steps, k = 0, 1, … (A.5).

    As many steps are taken as there is noise; a plan may be longer.
    """
    skills, latent = plan.unbind(-2), start
    latents, actions = [start], []
    for step, draws in enumerate(zip(*(x.unbind(0) for x in noise), strict=True)):
        latent, action = transition(latent, skills[step // skill_length], RolloutNoise(*draws))
        latents.append(latent)
        actions.append(action)
    states = Latent(*(torch.stack(parts) for parts in zip(*latents, strict=True)))
    return Rollout(states.feature, torch.stack(actions))


def log_likelihood(
    start: Latent,
    plan: Float[Tensor, "batch plan skill"],
    skill_length: int,
    predict: Predict,
    action_noise: Float[Tensor, "horizon batch action"],
    stoch: Float[Tensor, "horizon batch stoch"],
) -> Float[Tensor, " batch"]:
    """log p(stoch_1..stoch_H | s_0, plan, action noise) in nats: how likely the states of a rollout
    were, had `plan` been followed (A.6).

    `stoch` is what was drawn on the way. The deterministic part runs along under `plan`.
    """
    skills, latent, total = plan.unbind(-2), start, start.stoch.new_zeros(())
    for step, (noise, drawn) in enumerate(zip(action_noise, stoch, strict=True)):
        deter, prior = predict(latent, skills[step // skill_length], noise)
        total = total + prior.log_prob(drawn)
        latent = Latent(deter, drawn)
    return total
