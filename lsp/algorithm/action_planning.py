"""Planning over actions around the policy, at every agent step: skills above, actions below.

MPPI as in TD-MPC (Hansen et al. 2022): a few steps of the world model's means, its rewards, and v
for what comes after them.
"""

from math import ceil
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.algorithm.behavior import estimates_of
from lsp.algorithm.cem import Plan, best_plans, soft_mean_and_std
from lsp.algorithm.skill_planning import sized
from lsp.models.imagination import RolloutNoise, for_rows
from lsp.models.networks import Networks
from lsp.models.world_model import Latent


class ActionPlan(NamedTuple):
    """What to do now, and the mean of what is planned from now on."""

    action: Float[Tensor, "starts action"]
    mean: Float[Tensor, "starts length action"]


@torch.no_grad()
def plan_actions(
    networks: Networks,
    latent: Latent,
    skill: Float[Tensor, "starts skill"],
    before: Float[Tensor, "starts length action"],
    generator: torch.Generator,
) -> ActionPlan:
    """Sample sequences of actions, imagine, sort, refit, as often as the settings say.

    Args:
        networks: world model, policy and v.
        latent: where plans begin.
        skill: the one in force, under which the policy proposes sequences of its own.
        before: what is left of the plan before, where the search begins.
        generator: what draws.

    Returns:
        The first action of an elite, drawn by its weight, and the mean of the last refit.
    """
    settings = networks.config.actions
    proposed = policy_actions(networks, latent, skill, generator)
    zeta = Plan(before, torch.full_like(before, settings.max_std))
    for _ in range(settings.num_iterations):
        # Sample sequences, the policy's own among them
        shape = settings.num_candidates, *before.shape
        draws = torch.randn(shape, generator=generator, device=before.device)
        candidates = torch.cat([zeta.sample(draws).clamp(-1, 1), proposed])
        # Imagine, and estimate their values
        values = value_of(networks, latent, candidates)
        # Sort, and refit softly
        elites, best = best_plans(candidates, values, settings.num_elites)
        temperature = sized(settings.temperature, best, networks)
        found = soft_mean_and_std(elites, best, temperature, settings.min_std)
        mean = torch.lerp(found.mean, zeta.mean, settings.momentum)
        zeta = Plan(mean, found.std.clamp(max=settings.max_std))
    return ActionPlan(_drawn(elites, best / temperature, generator)[:, 0], zeta.mean)


def policy_actions(
    networks: Networks,
    latent: Latent,
    skill: Float[Tensor, "starts skill"],
    generator: torch.Generator,
) -> Float[Tensor, "candidates starts length action"]:
    """Sequences that the policy draws in the world model, holding the skill."""
    config, starts = networks.config, len(skill)
    count, length = config.actions.policy_candidates, config.actions.length
    held = skill[:, None].expand(-1, ceil(length / config.planner.skill_length), -1)
    draws = networks.draw_noise(length, count * starts, generator=generator)
    noise = RolloutNoise(draws.action, torch.zeros_like(draws.latent))
    rows, noise = for_rows(count * starts, latent, noise)
    actions = networks.imagine(rows, held.repeat(count, 1, 1), noise).action
    return actions.view(length, count, starts, -1).permute(1, 2, 0, 3)


def value_of(
    networks: Networks,
    latent: Latent,
    candidates: Float[Tensor, "candidates starts length action"],
) -> Float[Tensor, "candidates starts"]:
    """The discounted rewards of each sequence, and v where it ends."""
    judged = networks.judge_actions(latent, candidates.flatten(0, 1))
    returns = estimates_of(networks, judged, None, lambda_=1.0).returns[0]
    return returns.view(candidates.shape[:2])


def _drawn(
    elites: Float[Tensor, "elites starts length action"],
    logits: Float[Tensor, "elites starts"],
    generator: torch.Generator,
) -> Float[Tensor, "starts length action"]:
    """One of the elites of each start (Gumbel's maximum, which needs no look at the numbers)."""
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
    gumbel = -(-uniform.clamp(min=1e-20).log()).log()
    chosen = (logits + gumbel).argmax(0)
    return elites[chosen, torch.arange(elites.shape[1], device=elites.device)]
