"""Rolling a plan of held skills out in a world model (figure 3).

Policy and dynamics come as one function: nothing here knows a network.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.models.world_model import Latent


class RolloutNoise(NamedTuple):
    """Standard normal draws behind one rollout of H steps."""

    action: Float[Tensor, "horizon *batch action"]
    latent: Float[Tensor, "horizon *batch stoch"]


Transition = Callable[[Latent, Tensor, RolloutNoise], tuple[Latent, Tensor]]
"""(latent, skill, noise of one step) → (next latent, action taken)."""


class Rollout(NamedTuple):
    """States s_0..s_H and the actions between them."""

    feature: Float[Tensor, "states batch features"]
    action: Float[Tensor, "horizon batch action"]


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
