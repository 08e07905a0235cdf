"""Algorithm 2: the cross-entropy method over skill plans, and MPPI, which refits ζ softly."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Plan(NamedTuple):
    """ζ = (μ, Σ): a diagonal Normal over the ⌈H/K⌉ skills of a plan, for each start state."""

    mean: Float[Tensor, "*batch plan skill"]
    std: Float[Tensor, "*batch plan skill"]

    def sample(
        self, noise: Float[Tensor, "*batch plan skill"]
    ) -> Float[Tensor, "*batch plan skill"]:
        """Plans from standard normal `noise`."""
        return self.mean + self.std * noise


Evaluate = Callable[[Float[Tensor, "candidates starts plan skill"], int], Tensor]
"""Plans to their estimated values V_g, `[candidates, starts]`, by rollouts of this iteration."""

Refit = Callable[[Float[Tensor, "elites starts plan skill"], Float[Tensor, "elites starts"]], Plan]
"""The best plans of a round and their values to ζ of the next."""


def standard_plan(starts: int, length: int, skill_dim: int, device: torch.device) -> Plan:
    """ζ(0) = N(0, I)."""
    shape = (starts, length, skill_dim)
    return Plan(torch.zeros(shape, device=device), torch.ones(shape, device=device))


def candidate_noise(
    prior: Plan,
    num_iterations: int,
    num_candidates: int,
    generator: torch.Generator,
    shared: bool = False,
) -> Float[Tensor, "iterations candidates starts plan skill"]:
    """The standard normal draws behind all candidates of one `plan`.

    Args:
        prior: ζ(0), one for each start.
        num_iterations: MaxCEMiter, rounds of sampling and refitting.
        num_candidates: G, plans sampled in each round.
        generator: what draws.
        shared: one ζ serves all starts, and the axis of starts is 1.
    """
    starts, *skills = prior.mean.shape
    shape = (num_iterations, num_candidates, 1 if shared else starts, *skills)
    return torch.randn(shape, generator=generator, device=prior.mean.device)


def mean_and_std(
    elites: Float[Tensor, "elites starts plan skill"], values: Float[Tensor, "elites starts"]
) -> Plan:
    """The refit of CEM: all elites count alike (section 3)."""
    return Plan(elites.mean(0), elites.std(0, correction=0))


def soft_mean_and_std(
    elites: Float[Tensor, "elites starts plan skill"],
    values: Float[Tensor, "elites starts"],
    temperature: Float[Tensor, "*each"] | float,
    min_std: float = 0.0,
) -> Plan:
    """The refit of MPPI: elites are weighted by exp((V - V_max) / temperature), as TD-MPC2 does.

    Where no two values differ by more than the temperature it is CEM's; as the temperature falls to
    0, the best plan is left alone, and `min_std`, the least deviation, says how wide ζ stays.
    """
    weight = torch.softmax(values / temperature, 0)[..., None, None]
    mean = (weight * elites).sum(0)
    std = (weight * (elites - mean).square()).sum(0).sqrt()
    return Plan(mean, std.clamp(min=min_std))


def best_plans(
    candidates: Float[Tensor, "candidates starts plan skill"],
    values: Float[Tensor, "candidates starts"],
    count: int,
) -> tuple[Float[Tensor, "elites starts plan skill"], Float[Tensor, "elites starts"]]:
    """The `count` best of each start, and their values, best first."""
    best, order = values.topk(count, dim=0)
    return candidates.gather(0, order[..., None, None].expand(-1, -1, *candidates.shape[2:])), best


@torch.no_grad()
def plan(
    evaluate: Evaluate,
    prior: Plan,
    num_elites: int,
    noise: Float[Tensor, "iterations candidates starts plan skill"],
    shared: bool = False,
    refit: Refit = mean_and_std,
) -> tuple[Plan, dict[str, Tensor]]:
    """The cross-entropy method: sample plans, imagine, sort, refit, as often as there is noise.

    Args:
        evaluate: imagines candidate plans from every start at once, and returns their values.
        prior: ζ(0), one for each start.
        num_elites: M, the best plans of a round, which refit ζ.
        noise: of `candidate_noise`; its first axis is one round each.
        shared: one ζ serves all starts: candidates are scored by their mean over starts.
        refit: ζ of the best plans and their values.

    Returns:
        ζ, one for each start of `prior`, and statistics of the last round.
    """
    zeta, starts = prior, prior.mean.shape[0]
    if shared:
        zeta = Plan(prior.mean[:1], prior.std[:1])
    first_values: Tensor | None = None
    for iteration, draws in enumerate(noise.unbind(0)):
        # Sample G plans from p(z | ζ)
        candidates = zeta.sample(draws)
        # Imagine H steps from each s_t with each, and estimate their values V_g
        values = evaluate(candidates.expand(-1, starts, -1, -1), iteration)
        if shared:
            values = values.mean(1, keepdim=True)
        # Sort {V_g} and use the top M to update ζ = (μ, Σ)
        elites, best = best_plans(candidates, values, num_elites)
        zeta = refit(elites, best)
        first_values = values if first_values is None else first_values
    assert first_values is not None
    stats = {"planner/first_value": first_values.mean()} | statistics(zeta, values, best)
    return for_all(zeta, starts), stats


def statistics(zeta: Plan, values: Tensor, best: Tensor) -> dict[str, Tensor]:
    """Of the last round: all values and those of the best plans, and the ζ that they gave."""
    return {
        "planner/value": values.mean(),
        "planner/elite_advantage": best.mean() - values.mean(),
        "planner/elite_std": zeta.std.mean(),
        "planner/candidate_spread": values.std(0, correction=0).mean(),
    }


def for_all(zeta: Plan, starts: int) -> Plan:
    """One ζ for each start, where it is that of all."""
    return Plan(*(x.expand(starts, -1, -1) for x in zeta))
