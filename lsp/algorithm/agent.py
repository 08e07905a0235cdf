"""Acting: filter the latent from observations, re-plan the skills now and then (MPC in z)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lsp.algorithm.action_planning import plan_actions
from lsp.algorithm.amortized import blank_plans, proposed_plan
from lsp.algorithm.cem import Plan
from lsp.algorithm.rng import restore, seeded
from lsp.algorithm.skill_planning import noisy_plan, plan_skills
from lsp.backends.backends import EagerBackend
from lsp.backends.cuda_graphs import Tensors, as_it_is
from lsp.errors import UserError
from lsp.models.encoders import finite_numbers
from lsp.models.networks import Networks
from lsp.models.world_model import Latent, Scan
from lsp.rows import as_rows, observations

FORESEEN = 8  # rollouts behind what is expected of a new task's reward


class Agent:
    """Acts in one environment, or in several at once.

    `collect` explores: skills drawn from the planned ζ with noise on its mean, actions sampled
    from the policy with Gaussian noise on top. `evaluate` takes the planned mean and the policy's
    mode. Each agent has its own seeded random generator. `backend`, which is in full precision, is
    what it filters, plans and acts with. `skills` are planned or drawn from N(0, I), whatever the
    settings say. Where actions are refined, what the policy would do is where planning over actions
    begins, at every step. Where a transfer holds its behaviour fixed, the source's policy acts, on
    states that the source's own model filters; plans are made as ever, in the model that learns.
    """

    notes_random_actions = False
    """Whether `notes` says something of actions that it did not choose."""

    def __init__(
        self,
        networks: Networks,
        mode: Literal["collect", "evaluate"] = "evaluate",
        num_envs: int | None = None,
        seed: int = 0,
        backend: EagerBackend | None = None,
        skills: Literal["planned", "prior"] | None = None,
    ):
        config = networks.config
        if skills is not None:
            config = replace(config, skills=replace(config.skills, source=skills))
        # Skills from N(0, I) are held as long as in updates.
        self.config = config.acting if config.plans_skills else config
        self.networks, self.mode = networks, mode
        self.backend = backend or EagerBackend(networks.for_acting())
        self.fixed = self.backend.frozen_copy.fixed_behavior
        self.batched = num_envs is not None
        self.count = num_envs or 1
        self.generator = seeded(seed, networks.device)
        # A new task's reward may be a function of arrays, which cannot be recorded.
        record = self.backend.record if networks.new_task is None else as_it_is
        # The three functions of tensors below, recorded where that is faster.
        self._recorded_filter, self._recorded_plan, self._recorded_act = (
            record(function, self.generator)
            for function in (self.filter_latent, self.plan_ahead, self.choose_action)
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observation is the first of an episode, in every env."""
        networks, config = self.networks, self.config
        self.latent = networks.world_model.rssm.initial(self.count)
        self.fixed_latent = (
            self.latent if self.fixed is None else self.fixed.rssm.initial(self.count)
        )
        self.action = torch.zeros(self.count, networks.action_dim, device=networks.device)
        self.skill = torch.zeros(self.count, networks.plan_dim, device=networks.device)
        shape = (self.count, config.plan_length, networks.plan_dim)
        self.plan = Plan(*(torch.full(shape, x, device=networks.device) for x in (0.0, 1.0)))
        self.steps = np.zeros(self.count, np.int64)
        self._foreseen = np.zeros((self.count, config.planner.skill_length))
        ahead = self.count, config.actions.length, networks.action_dim
        self.ahead = torch.zeros(ahead, device=networks.device)
        self.planned = np.zeros(self.count, bool)

    def begin(self, index: int) -> None:
        """The next observation of env `index` is the first of an episode."""
        self.steps[index], self.planned[index] = 0, False
        self.plan.mean[index], self.plan.std[index] = 0.0, 1.0

    @torch.no_grad()
    def act(
        self, observation: Mapping[str, np.ndarray], skill: np.ndarray | None = None
    ) -> np.ndarray:
        """What to do now.

        Args:
            observation: an array for every key of the env's observation space, with a leading axis
                of envs if `num_envs` was given.
            skill: `[skill]`, or `[num_envs, skill]`; is held in this step, whatever planning would
                say. Without it the agent holds its own, and re-plans when that is due.

        Returns:
            Actions in [-1, 1], `[action]` or `[num_envs, action]`.

        Raises:
            UserError: the observation is no dict of the arrays that it sees, or is not finite; a
                skill is given to an agent without skills, or one of another shape or not finite.
        """
        preprocess, device = self.networks.world_model.preprocess, self.networks.device
        self._see(preprocess.tensors(observation, device, self.count if self.batched else None))
        if skill is not None:
            self.skill = self._given_skill(skill)
        elif self.config.has_skills or self.config.plans_actions:
            self._hold_or_replan()
        if self.networks.new_task is not None:
            self._foresee()
        self._choose()
        self.steps += 1
        actions = self.action.cpu().numpy()
        return actions if self.batched else actions[0]

    def _given_skill(self, skill: np.ndarray) -> Tensor:
        if not self.config.has_skills:
            raise UserError(f"{self.config.method} has no skills: leave out the skill")
        wanted = tuple(self.skill.shape[not self.batched :])
        given = finite_numbers("a skill", skill)
        if given.shape != wanted:
            raise UserError(f"a skill must be {list(wanted)} numbers, not {list(given.shape)}")
        return torch.as_tensor(given, device=self.networks.device).reshape(self.skill.shape)

    def _see(self, observation: Mapping[str, Tensor]) -> None:
        """Fold the observation into the latent."""
        is_first = torch.as_tensor(self.steps == 0, device=self.networks.device)
        inputs = as_rows(observation) | self.latent._asdict()
        inputs |= {"action": self.action, "is_first": is_first}
        if self.fixed is not None:
            inputs |= _named_fixed(self.fixed_latent)
        filtered = self._recorded_filter(inputs)
        self.latent = Latent(filtered["deter"], filtered["stoch"])
        if self.fixed is not None:
            self.fixed_latent = Latent(filtered["fixed_deter"], filtered["fixed_stoch"])

    def filter_latent(self, inputs: Tensors) -> Tensors:
        """One step of the filter, and of that of a fixed behaviour, with the same noise."""
        noise, seen = self._noise(*inputs["stoch"].shape), observations(inputs)

        def filtered(scan: Scan, latent: Latent, embedding: Tensor) -> Latent:
            step = inputs["action"], embedding, inputs["is_first"], noise
            return scan(latent, *(x[:, None] for x in step))[0]

        before, backend = Latent(inputs["deter"], inputs["stoch"]), self.backend
        found = filtered(backend.scan, before, backend.model.encode(seen))._asdict()
        if self.fixed is None:
            return found
        assert backend.anchor_scan is not None
        before = Latent(inputs["fixed_deter"], inputs["fixed_stoch"])
        return found | _named_fixed(filtered(backend.anchor_scan, before, self.fixed.encode(seen)))

    def _hold_or_replan(self) -> None:
        """Re-plan where that is due.

        The next skill of the plan is taken where one has been held for K steps, and the first one
        of a new plan at once.
        """
        config = self.config
        age = self.steps % config.replan_every
        self.planned = age == 0
        due = age % config.planner.skill_length == 0
        if not due.any():
            return
        if (config.plans_skills or config.plans_actions) and (age == 0).any():
            self._update_plans(age == 0)
        fresh = self._next_skills(age // config.planner.skill_length)
        self.skill = torch.where(self._column(due), fresh, self.skill)

    def _next_skills(self, number: np.ndarray) -> Tensor:
        """Of each env: the skill of that `number` in its plan, or one from N(0, I)."""
        config = self.config
        if config.skills.source == "prior":
            return self._noise(*self.skill.shape)
        device = self.networks.device
        which = torch.arange(self.count, device=device), torch.as_tensor(number, device=device)
        if self.mode == "evaluate" or config.plans_actions:
            return self.plan.mean[which]
        zeta = noisy_plan(self.plan, config, self.generator)
        return self._some_from_prior(zeta.sample(self._noise(*zeta.mean.shape))[which])

    def _foresee(self) -> None:
        """What a new task pays in the next K steps, where a skill has just been chosen."""
        age, length = self.steps % self.config.replan_every, self.config.planner.skill_length
        due = torch.as_tensor(np.flatnonzero(age % length == 0), device=self.networks.device)
        if len(due) == 0:
            return
        frozen, rows = self.backend.frozen_copy, due.repeat_interleave(FORESEEN)
        noise = frozen.draw_noise(length, len(rows), generator=self.generator)
        rollout = frozen.imagine(self.latent.rows(rows), self.skill[rows][:, None], noise)
        reward = frozen.judge(rollout).reward.view(length, len(due), FORESEEN).mean(-1)
        self._foreseen[due.cpu().numpy()] = reward.T.cpu().numpy()

    def foreseen(self) -> Float[np.ndarray, " envs"] | None:
        """What was expected of the last step's reward when its skill was chosen, on a new task."""
        if self.networks.new_task is None:
            return None
        age = (self.steps - 1) % self.config.replan_every
        column = age % self.config.planner.skill_length
        return np.asarray(self._foreseen[np.arange(self.count), column])

    def _some_from_prior(self, skill: Tensor) -> Tensor:
        """Each with the chance of `policy.prior_share` from N(0, I) in place of what is planned."""
        share = self.config.policy.prior_share
        if share == 0 or not self.config.plans_skills:
            return skill
        chances = torch.rand(self.count, 1, generator=self.generator, device=skill.device)
        return torch.where(chances < share, self._noise(*skill.shape), skill)

    def _update_plans(self, due: np.ndarray) -> None:
        """Update ζ of the envs that are due; the literal Algorithm 1 takes the learner's ζ."""
        networks = self.networks
        if self.config.planner.scope == "shared":
            self.plan = Plan(
                *(x.repeat(self.count, 1, 1) for x in (networks.shared_mean, networks.shared_std))
            )
            return
        rows = torch.as_tensor(np.flatnonzero(due), device=networks.device)
        mean, std = self.plan
        self.backend.refresh()
        zeta = Plan(**self._recorded_plan(self.latent.rows(rows)._asdict() | {"mean": mean[rows]}))
        self.plan = Plan(mean.index_copy(0, rows, zeta.mean), std.index_copy(0, rows, zeta.std))

    def plan_ahead(self, inputs: Tensors) -> Tensors:
        """ζ of some envs.

        A warm start takes what is left of the plans that they had, the last skill again.
        """
        networks, latent = self.backend.frozen_copy, Latent(inputs["deter"], inputs["stoch"])
        prior = self._rest(inputs["mean"]) if self.config.planner.warm_start else None
        if self.config.has_proposal:
            prior = proposed_plan(networks, latent.feature)
        asked = latent, self.generator, prior, self.config.acting_iterations
        return plan_skills(networks, *asked)[0]._asdict()

    def _rest(self, mean: Tensor) -> Plan:
        """N(what is left of plans when the next ones are made, I)."""
        over = self.config.replan_every // self.config.planner.skill_length
        rest = torch.cat([mean[:, over:], mean[:, -1:].expand(-1, over, -1)], 1)
        return Plan(rest, torch.ones_like(rest))

    def _choose(self) -> None:
        """The action, and where actions are refined what is planned after it."""
        reads = self.latent if self.fixed is None else self.fixed_latent
        inputs = reads._asdict() | {"skill": self.skill}
        if not self.config.refines_actions:
            self.action = self._recorded_act(inputs)["action"]
            return
        left = torch.cat([self.ahead[:, 1:], torch.zeros_like(self.ahead[:, :1])], 1)
        begun = torch.as_tensor(self.steps > 0, device=left.device)[:, None, None]
        chosen = self._recorded_act(inputs | {"ahead": left * begun})
        self.action, self.ahead = chosen["action"], chosen["ahead"]

    def choose_action(self, inputs: Tensors) -> Tensors:
        """What the policy does with its skill, what is planned around that, or the plan itself."""
        latent, skill = Latent(inputs["deter"], inputs["stoch"]), inputs["skill"]
        if not self.config.refines_actions:
            return {"action": self._act_in(latent.feature, skill)}
        networks = self.backend.frozen_copy
        plan = plan_actions(networks, latent, skill, inputs["ahead"], self.generator)
        collecting = self.mode == "collect"
        action = self._explore(plan.action) if collecting else plan.action
        return {"action": action, "ahead": plan.mean}

    def _act_in(self, feature: Tensor, skill: Tensor) -> Tensor:
        config, collecting = self.config.policy, self.mode == "collect"
        if self.config.plans_actions:
            return self._explore(skill) if collecting else skill.clamp(-1, 1)
        acting = self.backend.frozen_copy if self.fixed is None else self.fixed
        policy = acting.policy(feature, skill)
        if collecting:
            return self._explore(policy.sample(self._noise(*policy.mean.shape)))
        if config.mode_samples == 0:
            return policy.mode()
        return policy.likeliest(self._noise(config.mode_samples, *policy.mean.shape))

    def _explore(self, action: Tensor) -> Tensor:
        noise = self._noise(*action.shape)
        return (action + self.config.policy.exploration_noise * noise).clamp(-1, 1)

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.networks.device)

    def _column(self, mask: np.ndarray) -> Tensor:
        return torch.as_tensor(mask, device=self.networks.device)[:, None]

    def notes(self) -> dict[str, np.ndarray]:
        """What replayed rows need besides observations and actions, `[num_envs, ...]`.

        It is the plan that was made for the last action, where a proposal is learned from plans.
        """
        notes = blank_plans(self.count, self.config)
        if notes:
            now = self.planned
            notes["plan_mean"][now] = self.plan.mean.cpu().numpy()[now]
            notes["plan_std"][now] = self.plan.std.cpu().numpy()[now]
            notes["is_planned"][now] = True
        return notes

    def state(self) -> dict[str, Tensor]:
        """Everything that acting depends on, for a checkpoint."""
        more = {"ahead": self.ahead} if self.config.refines_actions else {}
        if self.fixed is not None:
            more |= _named_fixed(self.fixed_latent)
        return more | {
            "deter": self.latent.deter,
            "stoch": self.latent.stoch,
            "action": self.action,
            "skill": self.skill,
            "plan_mean": self.plan.mean.contiguous(),
            "plan_std": self.plan.std.contiguous(),
            "steps": torch.as_tensor(self.steps.copy()),
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        device = self.networks.device
        on = {key: x.to(device) for key, x in state.items() if key not in ("steps", "generator")}
        self.latent = Latent(on["deter"], on["stoch"])
        if self.fixed is not None:
            names = (f"fixed_{name}" for name in Latent._fields)
            # A run whose policy was free until now has filtered no other states.
            mine = zip(names, self.latent, strict=True)
            self.fixed_latent = Latent(*(on.get(name, part) for name, part in mine))
        self.action, self.skill = on["action"], on["skill"]
        self.plan = Plan(on["plan_mean"], on["plan_std"])
        self.ahead = on.get("ahead", self.ahead)
        self.steps = state["steps"].numpy().copy()
        restore(self.generator, state["generator"])


def _named_fixed(latent: Latent) -> Tensors:
    return {f"fixed_{name}": part for name, part in latent._asdict().items()}
