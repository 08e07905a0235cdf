"""Rolling a plan of held skills out in a world model (figure 3).

Policy and dynamics come as one function: nothing here knows a network.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.world_model import Latent


class RolloutNoise(NamedTuple):
    """Standard normal draws behind one rollout of H steps."""

    action: Float[Tensor, "horizon *batch action"]
    latent: Float[Tensor, "horizon *batch stoch"]


Transition = Callable[[Latent, Tensor, RolloutNoise], tuple[Latent, Tensor]]
"""(latent, skill, noise of one step) → (next latent, action taken)."""

Advance = Callable[[Latent, Tensor, RolloutNoise], tuple[Latent, Latent, Tensor]]
"""(latent, skill, noise of n steps) → (last latent, all n latents, the n actions before them)."""


class Rollout(NamedTuple):
    """States s_0..s_H and the actions between them."""

    feature: Float[Tensor, "states batch features"]
    action: Float[Tensor, "horizon batch action"]


def hold_skill(
    transition: Transition,
    latent: Latent,
    skill: Float[Tensor, "batch skill"],
    noise: RolloutNoise,
) -> tuple[Latent, Latent, Float[Tensor, "steps batch action"]]:
    """Take steps with the same skill, as many as there is noise."""
    latents, actions = [], []
    for action_noise, latent_noise in zip(*(x.unbind(0) for x in noise), strict=True):
        latent, action = transition(latent, skill, RolloutNoise(action_noise, latent_noise))
        latents.append(latent)
        actions.append(action)
    states = Latent(*(torch.stack(parts) for parts in zip(*latents, strict=True)))
    return latent, states, torch.stack(actions)


def imagine(
    start: Latent,
    plan: Float[Tensor, "batch plan skill"],
    skill_length: int,
    advance: Advance,
    noise: RolloutNoise,
) -> Rollout:
    """Follow `plan` from every row of `start`: skill k for K steps, k = 0, 1, … (A.5).

    As many steps are taken as there is noise; a plan may be longer.
    """
    latent, states, actions = start, [Latent(*(x[None] for x in start))], []
    windows = (x.split(skill_length) for x in noise)
    for skill, *window in zip(plan.unbind(-2), *windows, strict=False):
        latent, state, action = advance(latent, skill, RolloutNoise(*window))
        states.append(state)
        actions.append(action)
    deter, stoch = (torch.cat(parts) for parts in zip(*states, strict=True))
    return Rollout(Latent(deter, stoch).feature, torch.cat(actions))
