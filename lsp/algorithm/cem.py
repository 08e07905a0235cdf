"""Algorithm 2: the cross-entropy method over skill plans."""

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


@torch.no_grad()
def plan(
    evaluate: Evaluate,
    prior: Plan,
    num_elites: int,
    noise: Float[Tensor, "iterations candidates starts plan skill"],
    shared: bool = False,
) -> tuple[Plan, dict[str, Tensor]]:
    """The cross-entropy method: sample plans, imagine, sort, refit, as often as there is noise.

    Args:
        evaluate: imagines candidate plans from every start at once, and returns their values.
        prior: ζ(0), one for each start.
        num_elites: M, the best plans of a round, which refit ζ.
        noise: of `candidate_noise`; its first axis is one round each.
        shared: one ζ serves all starts: candidates are scored by their mean over starts.

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
        best, order = values.topk(num_elites, dim=0)
        elites = candidates.gather(0, order[..., None, None].expand(-1, -1, *prior.mean.shape[1:]))
        zeta = Plan(elites.mean(0), elites.std(0, correction=0))
        first_values = values if first_values is None else first_values
    assert first_values is not None
    stats = {
        "planner/value": values.mean(),
        "planner/first_value": first_values.mean(),
        "planner/elite_advantage": best.mean() - values.mean(),
        "planner/elite_std": zeta.std.mean(),
        "planner/candidate_spread": values.std(0, correction=0).mean(),
    }
    return Plan(*(x.expand(starts, -1, -1) for x in zeta)), stats
