"""Behaviour learning in imagination: planning skills, value estimates and the losses (3.1, 3.2)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lsp.algorithm.cem import Plan
from lsp.algorithm.returns import discounted_sum, lambda_return
from lsp.models.anchor import MovingAnchor
from lsp.models.distributions import Normal
from lsp.models.imagination import Rollout, RolloutNoise
from lsp.models.networks import HeadOutputs, Networks
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
    rollout: Rollout,
    intrinsic: Float[Tensor, "horizon batch"] | None,
    lambda_: float | None = None,
) -> Estimates:
    """Returns from every state of a rollout; λ is behaviour's where none is given."""
    return estimates_of(networks, networks.judge(rollout), intrinsic, lambda_)


def estimates_of(
    networks: Networks,
    judged: HeadOutputs,
    intrinsic: Float[Tensor, "horizon batch"] | None,
    lambda_: float | None = None,
) -> Estimates:
    """The same, of what the heads say of the states s_1..s_H.

    A value that covers the intrinsic reward does not know how far a skill has got, and pays the
    next one before it can have ended: v(s_H) promises two to four times too much
    (docs/notebook/critic.md).
    """
    config = networks.config
    reward, going_on, value = judged
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
    parts = segments(networks.told(feature), length)
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


def entropy_bonus(
    networks: Networks,
    rollout: Rollout,
    plans: Float[Tensor, "batch plan skill"],
    noise: RolloutNoise,
) -> tuple[Float[Tensor, "horizon batch"] | float, Metrics]:
    """The policy's weighted entropy H[q(a | s_t, z)] in the states s_0..s_{H-1} of a rollout (A.4,
    eq. 4), estimated by the action that was taken in each: `noise` is the rollout's own.

    The gradient reaches the policy's weights, and earlier actions through the states if these are
    no constants to it (`policy.stop_input_gradient`). Without a weight nothing is computed.
    """
    config, feature = networks.config, rollout.feature[:-1]
    if config.policy.entropy == 0:
        return 0.0, {}
    if config.policy.stop_input_gradient:
        feature = feature.detach()
    held = plans.repeat_interleave(config.planner.skill_length, 1).transpose(0, 1)
    entropy = networks.policy(feature, held[: feature.shape[0]]).entropy(noise.action)
    weight = config.policy.entropy * networks.return_size
    return weight * entropy, {"policy/entropy": entropy.mean()}


def policy_loss(
    rollout: Rollout,
    estimates: Estimates,
    weight: Float[Tensor, " batch"],
    bonus: Float[Tensor, "horizon batch"] | float = 0.0,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Minus the value estimates, whose gradient reaches the policy through the dynamics, and minus
    what each state is worth to the policy besides."""
    loss = -(estimates.weight * weight * (estimates.returns + bonus)).mean()
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
    """KL(policy ‖ anchor), on average over the posteriors `[batch, time]` of replayed sequences,
    each under a skill from N(0, I); the gradient reaches the policy alone.

    The anchor is the source's policy, or a slow copy of the policy itself. The source's policy
    reads the same observations through its own model, sampled with the same `noise`: as long as
    nothing has been learned the two are the same.
    """
    assert networks.anchor is not None
    states = latents.detach().flatten().feature
    size = states.shape[0], networks.config.skills.dim
    skill = torch.randn(size, generator=generator, device=states.device)
    if isinstance(networks.anchor, MovingAnchor):
        held_to = networks.anchor(states, skill)
    else:
        held_to = networks.anchor(batch, skill, noise, scan)
    kl = networks.policy(states, skill).kl(held_to).mean()
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
