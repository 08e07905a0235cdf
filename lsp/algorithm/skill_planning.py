"""Algorithm 2 bound to the learned networks, and the skills that are drawn from its plans."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lsp.algorithm.ascent import ascend
from lsp.algorithm.behavior import estimate_values, estimates_of, recognise_skills
from lsp.algorithm.cem import (
    Plan,
    Refit,
    candidate_noise,
    mean_and_std,
    plan,
    soft_mean_and_std,
    standard_plan,
)
from lsp.config import Config
from lsp.models.imagination import RolloutNoise, for_rows
from lsp.models.networks import Networks
from lsp.models.world_model import Latent, Metrics


def repeat_plan(zeta: Plan, times: int) -> Plan:
    """ζ of row i is that of start i // times."""
    return Plan(*(x.repeat_interleave(times, 0) for x in zeta))


class SkillSources(NamedTuple):
    """Which rollouts of an update have skills from N(0, I), spread evenly over its starts, and
    which have planned ones; row numbers, known before any of them is imagined."""

    prior: Int[Tensor, " prior"]
    planned: Int[Tensor, " planned"]

    @property
    def value_weight(self) -> Float[Tensor, " batch"]:
        """Of each rollout in what v learns, 1 on average: v is the value of planned skills."""
        count = len(self.prior) + len(self.planned)
        weight = torch.zeros(count, device=self.planned.device)
        return weight.index_fill(0, self.planned, count / len(self.planned))


def skill_sources(count: int, config: Config, device: torch.device) -> SkillSources:
    """The share `behavior.prior_share` of `count` rollouts, rounded down, and the others."""
    share = config.behavior.prior_share if config.mixes_skills else 0.0
    reached = (torch.arange(count + 1, dtype=torch.float64) * share).floor()
    from_prior = reached.diff() > 0
    rows = (torch.nonzero(mask).flatten().to(device) for mask in (from_prior, ~from_prior))
    return SkillSources(*rows)


def draw_skills(
    zeta: Plan, sources: SkillSources, generator: torch.Generator
) -> Float[Tensor, "batch plan skill"]:
    """Plans from ζ, and from N(0, I) where `sources` says so."""
    draws = torch.randn(zeta.mean.shape, generator=generator, device=zeta.mean.device)
    return zeta.sample(draws).index_copy(0, sources.prior, draws[sources.prior])


def score_plans(
    networks: Networks,
    starts: Latent,
    candidates: Float[Tensor, "candidates starts plan skill"],
    noise: RolloutNoise,
    generator: torch.Generator,
) -> Float[Tensor, "candidates starts"]:
    """V_g of Algorithm 2: the task return of each plan (plus weighted intrinsic return).

    `noise` is `[horizon, candidates, starts, ...]`, in any axis but the first possibly expanded.
    """
    config = networks.config
    weight = config.planner.intrinsic_weight
    count, num_starts = candidates.shape[:2]
    plans, lambda_ = candidates.flatten(0, 1), config.planning_lambda
    noise = RolloutNoise(*(x.expand(-1, -1, num_starts, -1).flatten(1, 2) for x in noise))
    if weight > 0:
        rows, draws = for_rows(len(plans), starts, noise)
        rollout = networks.imagine(rows, plans, draws)
        intrinsic = weight * recognise_skills(networks, rollout.feature, plans, generator).reward
        estimates = estimate_values(networks, rollout, intrinsic, lambda_)
    else:
        judged = networks.judge_plans(starts, plans, noise)
        estimates = estimates_of(networks, judged, None, lambda_)
    return estimates.returns[0].reshape(count, num_starts)


class SkillPrior:
    """The weighted log prior of a plan's skills, beside its return (A.5, eq. 6).

    It is in units of the running size of returns. Of a new task no such size is known: there the
    unit is the spread of returns over the first round of candidates, for each start.
    """

    def __init__(self, networks: Networks):
        config = networks.config
        self.weight, self.used = config.planner.prior_weight, config.skills_ahead
        self.unit: Tensor | None = None if networks.new_task else networks.return_size

    def added(
        self,
        values: Float[Tensor, "candidates starts"],
        candidates: Float[Tensor, "candidates starts plan skill"],
    ) -> Float[Tensor, "candidates starts"]:
        """Values of plans, their prior counted in."""
        if self.weight == 0:
            return values
        if self.unit is None:
            self.unit = values.detach().std(0, correction=0)
        return values + self.weight * self.unit * log_prior(candidates[:, :, : self.used])


def log_prior(
    plans: Float[Tensor, "candidates starts plan skill"],
) -> Float[Tensor, "candidates starts"]:
    """log p_0(z) of whole plans (A.5, eq. 6), less the constant: it is 0 for the skill 0."""
    return -0.5 * plans.square().sum((-1, -2))


@torch.no_grad()
def plan_skills(
    networks: Networks,
    starts: Latent,
    generator: torch.Generator,
    prior: Plan | None = None,
    num_iterations: int | None = None,
) -> tuple[Plan, Metrics]:
    """ζ for each start state: Algorithm 2 bound to the learned networks.

    It begins from `prior`, N(0, I) where there is none; `num_iterations` are those of updates where
    they are not given. Without any, ζ is the prior.
    """
    planner, num_starts = networks.config.planner, starts.deter.shape[0]
    shared, climbs = planner.scope == "shared", planner.refit == "gradient"
    rounds = planner.num_iterations if num_iterations is None else num_iterations
    if prior is None:
        length, dim = networks.config.plan_length, networks.plan_dim
        prior = standard_plan(num_starts, length, dim, networks.device)
    if rounds == 0:
        return prior, {}
    sizes = 1 if climbs else rounds, planner.num_candidates
    draws = candidate_noise(prior, *sizes, generator, shared)
    rows = planner.num_candidates if planner.rollout_noise == "independent" else 1
    # Climbing begins with plans that are sampled.
    shape = (rounds + climbs, planner.horizon, rows, num_starts)
    noise = networks.draw_noise(*shape, generator=generator)

    skill_prior = SkillPrior(networks)

    def evaluate(candidates: Tensor, iteration: int) -> Tensor:
        count = min(len(candidates), rows)
        now = RolloutNoise(*(x[iteration, :, :count] for x in noise))
        values = score_plans(networks, starts, candidates, now, generator)
        return skill_prior.added(values, candidates)

    if climbs:
        steps = rounds, planner.step_size, planner.min_std
        return ascend(evaluate, prior, planner.num_elites, draws[0], *steps, shared)
    return plan(evaluate, prior, planner.num_elites, draws, shared, _refit(networks))


def _refit(networks: Networks) -> Refit:
    """Of the settings."""
    planner = networks.config.planner
    if planner.refit == "cem":
        return mean_and_std

    def refit(elites: Tensor, values: Tensor) -> Plan:
        temperature = sized(planner.temperature, values, networks)
        return soft_mean_and_std(elites, values, temperature, planner.min_std)

    return refit


def sized(
    temperature: float, values: Float[Tensor, "elites starts"], networks: Networks
) -> Float[Tensor, "*#each"]:
    """A temperature in units of the running size of returns; of a new task no such size is known,
    and the unit is that of the best plans' own values."""
    known = networks.new_task is None
    size = networks.return_size if known else values.abs().mean(0, keepdim=True)
    least = torch.finfo(size.dtype).tiny  # below it numbers are flushed to 0
    return (temperature * size).clamp(min=least)


def noisy_plan(zeta: Plan, config: Config, generator: torch.Generator) -> Plan:
    """μ ← μ + ε, which keeps the entropy of the skill distribution up (section 3.2)."""
    noise = torch.randn(zeta.mean.shape, generator=generator, device=zeta.mean.device)
    return Plan(zeta.mean + config.planner.mean_noise * noise, zeta.std)
