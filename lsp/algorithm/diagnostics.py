"""Do skills matter? What an update does not need, and a log line tells."""

import torch

from lsp.algorithm.behavior import Starts, recognise_skills, repeat_starts
from lsp.algorithm.cem import standard_plan
from lsp.algorithm.forward_information import forward_information
from lsp.algorithm.skill_planning import score_plans
from lsp.models.distributions import Normal
from lsp.models.networks import Networks
from lsp.models.world_model import Latent, Metrics


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


@torch.no_grad()
def forward_probe(
    networks: Networks,
    starts: Latent,
    generator: torch.Generator,
    num_rollouts: int = 2,
    num_skills: int = 64,
) -> Metrics:
    """The same from the model's own densities (A.6), with or without χ: of some rollouts from each
    start, compared with their own skill and others from N(0, I), `num_skills` in all.

    It is at most log `num_skills`, 4.16 nats. Empty where no segment is complete.
    """
    config, count = networks.config, starts.deter.shape[0] * num_rollouts
    if config.behavior_horizon < config.planner.skill_length:
        return {}
    rows = repeat_starts(Starts(starts, torch.ones_like(starts.deter[:, 0])), num_rollouts).latent
    shape = (num_skills, count, config.plan_length, config.skills.dim)
    plans, rivals = torch.randn(shape, generator=generator, device=networks.device).split(
        [1, num_skills - 1]
    )
    noise = networks.draw_noise(config.behavior_horizon, count, generator=generator)
    rollout = networks.imagine(rows, plans[0], noise)
    nats = forward_information(networks, rollout, plans[0], noise, rivals)
    return {"skills/mutual_information_prior_forward": nats.mean()}
