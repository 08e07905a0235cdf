"""The inner loop of Algorithm 1: one update of everything."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lsp.algorithm.amortized import proposal_loss, proposed_plan
from lsp.algorithm.behavior import (
    SkillEvidence,
    anchor_loss,
    draw_starts,
    entropy_bonus,
    estimate_values,
    intrinsic_scale,
    policy_loss,
    recognise_skills,
    repeat_starts,
    replayed_value_loss,
    skill_loss,
    value_loss,
)
from lsp.algorithm.cem import Plan, standard_plan
from lsp.algorithm.diagnostics import forward_probe, skill_effect, skill_information
from lsp.algorithm.forward_information import forward_information, others_of_start
from lsp.algorithm.optimizer import Adam
from lsp.algorithm.rng import restore
from lsp.algorithm.skill_planning import (
    SkillSources,
    draw_skills,
    noisy_plan,
    plan_skills,
    repeat_plan,
    skill_sources,
)
from lsp.backends.backends import EagerBackend
from lsp.models.imagination import Rollout, RolloutNoise
from lsp.models.networks import Networks
from lsp.models.skills import paid_at_ends
from lsp.models.world_model import Latent, Metrics

PROBE_STARTS = 16  # start states at which skills are probed


class Learner:
    """Networks, their optimisers and a random generator.

    Behaviour is learned with `backend.frozen_copy`, a copy of the networks that may be faster and
    less precise; its gradients go to the networks' own parameters, and `refresh` brings it up to
    date. `backend.model` computes with the parameters of the world model itself.
    """

    def __init__(self, networks: Networks, seed: int, backend: EagerBackend | None = None):
        config = networks.config
        self.backend = backend or EagerBackend(networks)
        self.networks, self.config = networks, config
        self.generator = torch.Generator(networks.device).manual_seed(seed)
        frozen = self.backend.frozen_copy
        # Of each part: what is learned, what computes its gradient, and the learning rate.
        parts: dict[str, tuple[nn.Module, nn.Module, float]] = {
            "model": (networks.world_model, networks.world_model, config.model.learning_rate),
        }
        held, anchored = config.transfer.freeze_policy, bool(config.transfer.anchor)
        if not config.plans_actions:
            parts["value"] = networks.value, frozen.value, config.value.learning_rate
        if not config.plans_actions and (anchored or not held):
            parts["policy"] = networks.policy, frozen.policy, config.policy.learning_rate
        if config.has_intrinsic and not held:
            skills = networks.skill_predictor, frozen.skill_predictor
            parts["skills"] = (*skills, config.skills.learning_rate)
        if config.has_proposal:
            parts["proposal"] = networks.proposal, frozen.proposal, config.skills.learning_rate
        self.optimizers, self.computing = dict[str, Adam](), dict[str, list[Tensor]]()
        for name, (module, computing, rate) in parts.items():
            self.optimizers[name] = Adam(module.parameters(), rate, config.optimizer.epsilon)
            self.computing[name] = list(computing.parameters())
        self._sources: SkillSources | None = None
        self._starts: Latent | None = None
        self.anchor_weight = torch.zeros((), device=networks.device)
        self._learn, self._learn_around = (
            self.backend.record(function, self.generator)
            for function in (self.learn, partial(self.learn, hold_policy=True))
        )

    def update(
        self, batch: Mapping[str, np.ndarray], env_steps: int = 0, hold_policy: bool = False
    ) -> Metrics:
        """One step of model and behaviour learning on replayed sequences `[batch, time, ...]`.

        The run has taken `env_steps`, with which an anchor fades. `hold_policy` leaves policy and χ
        as they are. Metrics come back as tensors on the device, so that nothing waits for them.
        """
        self.anchor_weight.fill_(self.config.transfer.anchor_at(env_steps))
        learn, device = self._learn_around if hold_policy else self._learn, self.networks.device
        return learn({key: _to_device(x, device) for key, x in batch.items()})

    def learn(self, data: dict[str, Tensor], hold_policy: bool = False) -> Metrics:
        """`update` on a batch that is on the device. The first `own_sequences` of it are the run's
        own; from any others the model learns alone."""
        networks, frozen = self.networks, self.backend.frozen_copy
        config, generator = self.config, self.generator

        # Model learning: compute model states s_t, update θ
        noise = networks.world_model.posterior_noise(data, generator)
        loss, latents, metrics = self.backend.model.loss(data, generator, self.backend.scan, noise)
        metrics |= self.descend("model", loss)
        if config.plans_actions:
            return {name: value.detach() for name, value in metrics.items()}
        self.backend.refresh()
        latents, data = self.own_rows(latents, data)

        # Behaviour learning: ζ = CEM(S, ...), μ ← μ + ε
        starts = draw_starts(latents, data["is_terminal"], config.behavior.num_starts, generator)
        zeta, about_plan = self.plan(starts.latent)
        starts = repeat_starts(starts, config.behavior.rollouts_per_start)
        zeta = repeat_plan(zeta, config.behavior.rollouts_per_start)

        # Imagine with skills from ζ, some from N(0, I)
        rows, sources = starts.weight.shape[0], self.sources(starts.weight.shape[0])
        plans = draw_skills(zeta, sources, generator)
        draws = frozen.draw_noise(config.behavior_horizon, rows, generator=generator)
        rollout = frozen.imagine(starts.latent, plans, draws)

        # Rewards R and intrinsic rewards r_i form the value estimates
        evidence, about_evidence = self.recognise(rollout, plans, draws)
        intrinsic = None if evidence is None else evidence.reward
        estimates = estimate_values(frozen, rollout, intrinsic)

        # Update φ, ψ, χ
        bonus, about_entropy = entropy_bonus(frozen, rollout, plans, draws)
        loss, about_policy = policy_loss(rollout, estimates, starts.weight, bonus)
        loss, about_anchor = self.anchored(loss, latents, data, noise)
        metrics |= about_plan | about_policy | about_entropy | about_anchor
        if "policy" in self.optimizers and not hold_policy:
            metrics |= self.descend("policy", loss, again=evidence is not None)
        value_weight = starts.weight * sources.value_weight
        loss, about_value = value_loss(frozen, rollout, estimates, value_weight)
        if config.value.states == "observed":
            replayed, about_replayed = replayed_value_loss(frozen, latents, data)
            loss, about_value = loss + replayed, about_value | about_replayed
        metrics |= about_value | self.descend("value", loss)
        if evidence is not None:
            loss, about_skills = skill_loss(
                evidence.log_q, plans, zeta, starts.weight, sources.planned
            )
            metrics |= about_skills | about_evidence
            if "skills" in self.optimizers and not hold_policy:
                metrics |= self.descend("skills", loss)
        metrics |= self.fit_proposal(latents, data)
        networks.update_slow_value()
        networks.move_anchor()
        networks.track_return_size(estimates.target, sources.value_weight)
        every = config.behavior.rollouts_per_start
        self._starts = starts.latent.rows(slice(0, PROBE_STARTS * every, every))
        return {name: value.detach() for name, value in metrics.items()}

    def recognise(
        self, rollout: Rollout, plans: Tensor, noise: RolloutNoise
    ) -> tuple[SkillEvidence | None, Metrics]:
        """How well the skills of a rollout show, and what that pays; None without a complete
        segment, or where none pays."""
        config, frozen = self.config, self.backend.frozen_copy
        if not config.num_segments:
            return None, {}
        backward, metrics = config.skills.estimator == "backward", dict[str, Tensor]()
        feature = rollout.feature if backward else rollout.feature.detach()
        evidence = recognise_skills(frozen, feature, plans, self.generator)
        if not backward:
            rivals = others_of_start(plans, config.behavior.rollouts_per_start)
            nats = forward_information(frozen, rollout, plans, noise, rivals)
            paid = paid_at_ends(nats, config.behavior_horizon, config.planner.skill_length)
            evidence = evidence._replace(reward=intrinsic_scale(frozen) * paid)
            metrics["skills/mutual_information_forward"] = nats.mean()
        return evidence, metrics | {"skills/intrinsic_reward": evidence.reward.sum(0).mean()}

    def fit_proposal(self, latents: Latent, data: dict[str, Tensor]) -> Metrics:
        """Fit q(z | s) to the plans that were made while acting, if it is learned."""
        if not self.config.has_proposal:
            return {}
        loss, metrics = proposal_loss(self.backend.frozen_copy, latents, data)
        return metrics | self.descend("proposal", loss)

    def anchored(
        self, loss: Tensor, latents: Latent, data: dict[str, Tensor], noise: Tensor
    ) -> tuple[Tensor, Metrics]:
        """The policy's loss with what holds it to its source; a frozen policy descends that alone.

        `noise` is what the posteriors `latents` were sampled with.
        """
        config, networks = self.config, self.networks
        if not config.transfer.anchor:
            return loss, {}
        frozen, scan = self.backend.frozen_copy, self.backend.anchor_scan
        own = noise[: config.own_sequences]
        kl, metrics = anchor_loss(frozen, latents, data, own, self.generator, scan)
        weight = self.anchor_weight * networks.return_size
        return kl if config.transfer.freeze_policy else loss + weight * kl, metrics

    def own_rows(
        self, latents: Latent, data: dict[str, Tensor]
    ) -> tuple[Latent, dict[str, Tensor]]:
        """Without the sequences that come from a transfer's source."""
        if not self.config.transfer.keep_replay:
            return latents, data
        own = slice(self.config.own_sequences)
        return latents.rows(own), {key: x[own] for key, x in data.items()}

    def sources(self, rollouts: int) -> SkillSources:
        """Of the skills of an update; the same each time, and made once."""
        if self._sources is None:
            self._sources = skill_sources(rollouts, self.config, self.networks.device)
        return self._sources

    def probe_skills(self) -> Metrics:
        """Whether skills matter, at start states of the last update; empty without skills.

        It draws from a generator of its own, the same each time: measuring changes nothing.
        """
        if not self.config.has_skills or self._starts is None:
            return {}
        probe = torch.Generator(self.networks.device).manual_seed(0)
        found = [
            work(self.networks, self._starts, probe)
            for work in (skill_information, skill_effect, forward_probe)
        ]
        return found[0] | found[1] | found[2]

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps besides networks and optimisers."""
        starts = {} if self._starts is None else self._starts._asdict()
        return {"generator": self.generator.get_state(), **starts}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        restore(self.generator, state["generator"])
        if "deter" in state:
            device = self.networks.device
            self._starts = Latent(state["deter"].to(device), state["stoch"].to(device))

    def plan(self, starts: Latent) -> tuple[Plan, Metrics]:
        """ζ with noise on its mean; N(0, I) where skills are not planned, if there are any, and
        where plans are amortised what is proposed."""
        networks, config = self.networks, self.config
        if not config.plans_skills:
            count, length = starts.deter.shape[0], config.plan_length
            return standard_plan(count, length, config.skills.dim, networks.device), {}
        if config.has_proposal:
            zeta = proposed_plan(self.backend.frozen_copy, starts.feature)
            return noisy_plan(zeta, config, self.generator), {}
        zeta, stats = plan_skills(self.backend.frozen_copy, starts, self.generator)
        if config.planner.scope == "per_state":
            return noisy_plan(zeta, config, self.generator), stats
        one = Plan(zeta.mean[:1], zeta.std[:1])
        networks.shared_mean.copy_(one.mean)
        networks.shared_std.copy_(one.std)
        return repeat_plan(noisy_plan(one, config, self.generator), zeta.mean.shape[0]), stats

    def descend(self, name: str, loss: Tensor, again: bool = False) -> Metrics:
        """One Adam step of the named part alone: gradients of the others are never computed.

        `again` says that another part will descend what was computed for this one.
        """
        optimizer = self.optimizers[name]
        parameters = optimizer.param_groups[0]["params"]
        gradients = torch.autograd.grad(loss, self.computing[name], retain_graph=again or None)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip, foreach=True)
        optimizer.step()
        torch.autograd.graph.increment_version(parameters)  # which a fused step forgets
        return {f"gradient/{name}": norm}


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """On a GPU without waiting for the copy."""
    tensor = torch.as_tensor(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
