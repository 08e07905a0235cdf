"""Behaviour learning in imagination: planning skills, value estimates and the losses (3.1, 3.2)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lsp.algorithm.cem import Plan, candidate_noise, plan, standard_plan
from lsp.algorithm.returns import discounted_sum, lambda_return
from lsp.config import Config
from lsp.models.distributions import Normal
from lsp.models.imagination import Rollout, RolloutNoise
from lsp.models.networks import Networks
from lsp.models.skills import batch_density, intrinsic_reward, segments
from lsp.models.world_model import Latent, Metrics, Scan


class Starts(NamedTuple):
    """Start states of imagination, without gradient; weight 0 where an episode has ended."""

    latent: Latent
    weight: Float[Tensor, " starts"]


def draw_starts(
    latents: Latent,
    is_terminal: Bool[Tensor, "batch time"],
    num_starts: int | None,
    generator: torch.Generator,
) -> Starts:
    """All posterior states of a batch, or a random subset without terminal states."""
    latent, alive = latents.detach().flatten(), (~is_terminal).flatten().float()
    if num_starts is not None:
        lottery = torch.rand(alive.shape, generator=generator, device=alive.device)
        chosen = (lottery + alive).topk(num_starts).indices
        latent, alive = latent.rows(chosen), alive[chosen]
    return Starts(latent, alive)


def repeat_starts(starts: Starts, times: int) -> Starts:
    """Row i of the result is start i // times."""
    deter, stoch, weight = (x.repeat_interleave(times, 0) for x in (*starts.latent, starts.weight))
    return Starts(Latent(deter, stoch), weight)


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


class Estimates(NamedTuple):
    """What a rollout is worth. Index t belongs to s_t, t = 0..H-1."""

    returns: Float[Tensor, "horizon batch"]
    target: Float[Tensor, "horizon batch"]
    """The part of the returns that v covers: a λ-return."""
    discount: Float[Tensor, "horizon batch"]

    @property
    def weight(self) -> Float[Tensor, "horizon batch"]:
        """γ^t, times the chance that the episode has got so far; without gradient."""
        discount = self.discount.detach()
        return torch.cat([torch.ones_like(discount[:1]), discount[:-1]]).cumprod(0)


def estimate_values(
    networks: Networks,
    feature: Float[Tensor, "states batch features"],
    intrinsic: Float[Tensor, "horizon batch"] | None,
    lambda_: float | None = None,
) -> Estimates:
    """Returns from every state of a rollout; λ is behaviour's where none is given.

    A value that covers the intrinsic reward does not know how far a skill has got, and pays the
    next one before it can have ended: v(s_H) promises two to four times too much
    (docs/findings.md).
    """
    config = networks.config
    reward, going_on, value = networks.predict_heads(feature[1:])
    discount = config.behavior.discount * going_on
    if intrinsic is not None and config.value.covers == "total":
        reward, intrinsic = reward + intrinsic, None
    lambda_ = config.behavior.lambda_ if lambda_ is None else lambda_
    target = lambda_return(reward, value, discount, lambda_)
    if intrinsic is None:
        return Estimates(target, target, discount)
    return Estimates(target + discounted_sum(intrinsic, discount), target, discount)


class SkillEvidence(NamedTuple):
    """How well χ recognises the skills of a rollout, one entry for each complete segment."""

    log_q: list[Float[Tensor, " batch"]]
    reward: Float[Tensor, "horizon batch"]


def recognise_skills(
    networks: Networks,
    feature: Float[Tensor, "states batch features"],
    plans: Float[Tensor, "batch plan skill"],
    generator: torch.Generator,
) -> SkillEvidence:
    """log q_χ(z | {s}, s0) of each segment and the intrinsic reward r_i it earns."""
    config = networks.config
    length = config.planner.skill_length
    parts = segments(feature, length)
    skills = plans.unbind(1)[: len(parts)]
    log_q = [
        networks.skill_predictor(part, generator).log_prob(skill)
        for part, skill in zip(parts, skills, strict=True)
    ]
    horizon = feature.shape[0] - 1
    if not log_q:  # K > H: no segment is ever complete
        return SkillEvidence([], feature.new_zeros(horizon, feature.shape[1]))
    reward = intrinsic_reward(log_q, horizon, length, config.skills.dim)
    return SkillEvidence(log_q, intrinsic_scale(networks) * reward)


def intrinsic_scale(networks: Networks) -> Float[Tensor, ""] | float:
    """Reward for one nat."""
    skills = networks.config.skills
    unit = networks.return_size if skills.intrinsic_unit == "return" else 1.0
    return skills.intrinsic_scale * unit


def score_plans(
    networks: Networks,
    starts: Latent,
    candidates: Float[Tensor, "candidates starts plan skill"],
    noise: RolloutNoise,
    generator: torch.Generator,
) -> Float[Tensor, "candidates starts"]:
    """V_g of Algorithm 2: the task return of each plan (plus weighted intrinsic return, plus the
    weighted log prior of its skills).

    `noise` is `[horizon, candidates, starts, ...]`, in any axis but the first possibly expanded.
    """
    config = networks.config
    weight = config.planner.intrinsic_weight
    count, num_starts = candidates.shape[:2]
    rows = Latent(*(x.expand(count, *x.shape).flatten(0, 1) for x in starts))
    flat = RolloutNoise(*(x.expand(-1, count, num_starts, -1).flatten(1, 2) for x in noise))
    plans = candidates.flatten(0, 1)
    feature = networks.imagine(rows, plans, flat).feature
    intrinsic = None
    if weight > 0:
        intrinsic = weight * recognise_skills(networks, feature, plans, generator).reward
    estimates = estimate_values(networks, feature, intrinsic, config.planning_lambda)
    scores = estimates.returns[0].reshape(count, num_starts)
    if config.planner.prior_weight > 0:
        used = candidates[:, :, : config.skills_ahead]
        scores = scores + config.planner.prior_weight * networks.return_size * log_prior(used)
    return scores


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
) -> tuple[Plan, Metrics]:
    """ζ for each start state: Algorithm 2 bound to the learned networks."""
    config = networks.config
    planner, num_starts = config.planner, starts.deter.shape[0]
    independent = planner.rollout_noise == "independent"
    rows = planner.num_candidates if independent else 1

    if prior is None:
        prior = standard_plan(num_starts, config.plan_length, networks.plan_dim, networks.device)
    draws = candidate_noise(prior, planner, generator)
    shape = (planner.num_iterations, planner.horizon, rows, num_starts)
    noise = networks.draw_noise(*shape, generator=generator)

    def evaluate(candidates: Tensor, iteration: int) -> Tensor:
        now = RolloutNoise(*(x[iteration] for x in noise))
        return score_plans(networks, starts, candidates, now, generator)

    return plan(evaluate, prior, planner, draws)


def noisy_plan(zeta: Plan, config: Config, generator: torch.Generator) -> Plan:
    """μ ← μ + ε, which keeps the entropy of the skill distribution up (section 3.2)."""
    noise = torch.randn(zeta.mean.shape, generator=generator, device=zeta.mean.device)
    return Plan(zeta.mean + config.planner.mean_noise * noise, zeta.std)


def policy_loss(
    rollout: Rollout, estimates: Estimates, weight: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Minus the value estimates; the gradient reaches the policy through the dynamics."""
    loss = -(estimates.weight * weight * estimates.returns).mean()
    return loss, {
        "policy/loss": loss,
        "policy/return": estimates.returns.mean(),
        "policy/action_magnitude": rollout.action.abs().mean(),
    }


def anchor_loss(
    networks: Networks,
    latents: Latent,
    batch: Mapping[str, Tensor],
    noise: Float[Tensor, "batch time stoch"],
    generator: torch.Generator,
    scan: Scan | None = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """KL(policy ‖ source's policy), on average over the posteriors `[batch, time]` of replayed
    sequences, each under a skill from N(0, I); the gradient reaches the policy alone.

    The source's policy reads the same observations through its own model, sampled with the same
    `noise`: as long as nothing has been learned the two are the same.
    """
    assert networks.anchor is not None
    states = latents.detach().flatten().feature
    size = states.shape[0], networks.config.skills.dim
    skill = torch.randn(size, generator=generator, device=states.device)
    kl = networks.policy(states, skill).kl(networks.anchor(batch, skill, noise, scan)).mean()
    return kl, {"policy/anchor_kl": kl}


def value_loss(
    networks: Networks, rollout: Rollout, estimates: Estimates, weight: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Half the squared distance of v(s_t) to its λ-return: a unit Normal's likelihood.

    Where v is fitted in observed states, s_0 is the only one of a rollout.
    """
    states = 1 if networks.config.value.states == "observed" else estimates.target.shape[0]
    value = networks.value(rollout.feature[:states].detach())
    error = (value - estimates.target[:states].detach()).square()
    loss = 0.5 * (estimates.weight[:states] * weight * error).mean()
    return loss, {
        "value/loss": loss,
        "value/mean": (weight * value).mean(),
        "value/target": (weight * estimates.target[:states]).mean(),
    }


def replayed_value_loss(
    networks: Networks, latents: Latent, batch: Mapping[str, Tensor]
) -> tuple[Float[Tensor, ""], Metrics]:
    """The same for posteriors `[batch, time]` of replayed sequences and the rewards that followed,
    which are what the policies of the time earned.

    λ-returns do not cross an episode's end: after a terminal state nothing comes, at a time limit
    they end in v of the last row.
    """
    config = networks.config
    feature = latents.detach().feature.transpose(0, 1)
    reward, first, terminal = (batch[key].T for key in ("reward", "is_first", "is_terminal"))
    ends, going_on = first[1:], ~terminal[1:]
    slow = networks.slow_value(feature).detach()
    # Where the next row begins another episode, the return is v itself.
    gained = torch.where(ends, slow[:-1], config.model.reward_scale * reward[1:])
    discount = config.behavior.discount * (going_on & ~ends)
    target = lambda_return(gained, slow[1:], discount, config.behavior.lambda_)
    value = networks.value(feature[:-1])
    weight = (~ends & ~terminal[:-1]).float()
    loss = 0.5 * (weight * (value - target).square()).mean()
    return loss, {
        "value/replayed_loss": loss,
        "value/replayed": value.mean(),
        "value/replayed_target": target.mean(),
    }


def skill_loss(
    log_q: list[Float[Tensor, " batch"]],
    plans: Float[Tensor, "batch plan skill"],
    zeta: Plan,
    weight: Float[Tensor, " batch"],
    planned: Int[Tensor, " planned"],
) -> tuple[Float[Tensor, ""], Metrics]:
    """Minus log q_χ(z | {s}, s0) of the imagined segments, of which there is at least one.

    Metrics, over the rollouts with `planned` skills: the mutual information estimated as
    log q(z | {s}, s0) minus the log density of z under the batch's own skill distribution; and
    minus log p(z | s0), the plan's own density.
    """
    scores = torch.stack(log_q)
    loss = -(weight * scores).mean()
    count, scores = len(log_q), scores[:, planned]
    skills = plans[planned, :count]
    batch = batch_density(skills.flatten(0, 1)).log_prob(skills).mean()
    # A single elite leaves no spread at all.
    density = Normal(zeta.mean[planned, :count], zeta.std[planned, :count].clamp(min=1e-3))
    given_start = density.log_prob(skills).mean()
    return loss, {
        "skills/loss": loss,
        "skills/log_q": scores.mean(),
        "skills/mutual_information": scores.mean() - batch,
        "skills/mutual_information_given_start": scores.mean() - given_start,
        "skills/std": skills.std(0, correction=0).mean(),
    }


@torch.no_grad()
def skill_effect(
    networks: Networks,
    starts: Latent,
    generator: torch.Generator,
    num_skills: int = 8,
    num_noises: int = 8,
) -> Metrics:
    """Does the skill matter? Spread of returns over skills, the noise held, against spread over
    noise, the skill held. If the first is small beside the second, planning selects noise."""
    config, count = networks.config, starts.deter.shape[0]
    shape = (num_skills, count, config.plan_length, config.skills.dim)
    skills = torch.randn(shape, generator=generator, device=networks.device)
    horizon = config.planner.horizon
    returns = []
    for _ in range(num_noises):
        noise = networks.draw_noise(horizon, 1, count, generator=generator)
        returns.append(score_plans(networks, starts, skills, noise, generator))
    table = torch.stack(returns)  # noise, skill, start
    effect, noise_spread = table.std(1).mean(), table.std(0).mean()
    return {
        "skills/effect": effect,
        "skills/noise": noise_spread,
        "skills/effect_ratio": effect / noise_spread.clamp(min=1e-8),
    }


@torch.no_grad()
def skill_information(
    networks: Networks, starts: Latent, generator: torch.Generator, num_skills: int = 8
) -> Metrics:
    """Do the states tell the skill? Log q - log p of skills drawn from p = N(0, I).

    Such skills know nothing of the start they are used in, as planned ones do, so this bounds
    I(z; {s} | s0) under N(0, I) from below. Empty where no segment is complete.
    """
    config, count = networks.config, starts.deter.shape[0] * num_skills
    if not config.num_segments:
        return {}
    rows = repeat_starts(Starts(starts, torch.ones_like(starts.deter[:, 0])), num_skills).latent
    prior = standard_plan(count, config.plan_length, config.skills.dim, networks.device)
    draws = torch.randn(prior.mean.shape, generator=generator, device=networks.device)
    plans = prior.sample(draws)
    noise = networks.draw_noise(config.behavior_horizon, count, generator=generator)
    feature = networks.imagine(rows, plans, noise).feature
    log_q = torch.stack(recognise_skills(networks, feature, plans, generator).log_q)
    log_p = Normal(prior.mean, prior.std).log_prob(plans)[:, : config.num_segments]
    return {"skills/mutual_information_prior": log_q.mean() - log_p.mean()}
