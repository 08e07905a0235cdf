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
"""(latent, skill, noise of this step) → (next latent, action taken)."""


class Rollout(NamedTuple):
    """States s_0..s_H and the actions between them."""

    feature: Float[Tensor, "states batch features"]
    action: Float[Tensor, "horizon batch action"]


def held_skills(
    plan: Float[Tensor, "*batch plan skill"], horizon: int, skill_length: int
) -> list[Float[Tensor, "*batch skill"]]:
    """The skill in force at each of `horizon` steps: plan[k] for K steps, k = 0, 1, … (A.5)."""
    skills = plan.unbind(-2)
    return [skills[t // skill_length] for t in range(horizon)]


def imagine(
    start: Latent,
    plan: Float[Tensor, "batch plan skill"],
    skill_length: int,
    transition: Transition,
    noise: RolloutNoise,
) -> Rollout:
    """Follow `plan` for as many steps as there is noise, from every row of `start`."""
    horizon = noise.action.shape[0]
    latent, latents, actions = start, [start], []
    for t, skill in enumerate(held_skills(plan, horizon, skill_length)):
        latent, action = transition(latent, skill, RolloutNoise(noise.action[t], noise.latent[t]))
        latents.append(latent)
        actions.append(action)
    deter, stoch = (torch.stack(parts) for parts in zip(*latents, strict=True))
    return Rollout(Latent(deter, stoch).feature, torch.stack(actions))
