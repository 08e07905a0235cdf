"""Everything that is learned, in one module: world model, policy, value, skill predictor."""

from collections.abc import Callable
from copy import copy, deepcopy
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.config import Config
from lsp.errors import UserError
from lsp.models.actor_critic import Policy, Value
from lsp.models.anchor import Anchor, MovingAnchor
from lsp.models.distributions import Normal
from lsp.models.encoders import Shapes
from lsp.models.imagination import (
    Predict,
    Rollout,
    RolloutNoise,
    Transition,
    for_rows,
    imagine,
    log_likelihood,
)
from lsp.models.layers import MLP
from lsp.models.proposal import SkillProposal
from lsp.models.skills import SkillPredictor
from lsp.models.world_model import Latent, WorldModel


class HeadOutputs(NamedTuple):
    """What the heads say of states s: r(s), the chance that the episode continues, and v(s)."""

    reward: Float[Tensor, "*batch"]
    continuation: Float[Tensor, "*batch"]
    value: Float[Tensor, "*batch"]


class NewTask(nn.Module):
    """A task that these networks were not trained for, and plan for.

    Args:
        reward: (networks, rollout) → reward of each agent step, `[horizon, batch]`.
        has_value: whether v was fitted to it; else nothing is known of what comes after a rollout.
    """

    def __init__(
        self, reward: "Callable[[Networks, Rollout], Tensor]", has_value: bool = False
    ) -> None:
        super().__init__()
        self.reward, self.has_value = reward, has_value


class Networks(nn.Module):
    """θ (world model), φ (policy), ψ (value) and χ (skill predictor), the last where skills are
    paid for; a method that plans actions has θ alone. A transfer may have an anchor besides, and
    plans may begin from a learned proposal."""

    return_size: Tensor
    shared_mean: Tensor
    shared_std: Tensor

    def __init__(self, shapes: Shapes, action_dim: int, config: Config):
        super().__init__()
        self.config, self.action_dim = config, action_dim
        self.world_model = WorldModel(shapes, action_dim, config.model)
        features = self.world_model.features
        self.plan_dim = action_dim if config.plans_actions else config.skills.dim
        if not config.plans_actions:
            self.policy = Policy(features, config.skills.dim, action_dim, config.policy)
            self.value = Value(features, config.value)
            self.slow_value = deepcopy(self.value).requires_grad_(False)
        self.anchor = self._make_anchor() if config.transfer.anchor else None
        if config.has_intrinsic:
            self.skill_predictor = SkillPredictor(self._numbers_told(features), config.skills)
        if config.has_proposal:
            self.proposal = SkillProposal(features, config.plan_length, config.skills)
        if config.plans_skills:
            plan = (1, config.plan_length, config.skills.dim)
            self.register_buffer("shared_mean", torch.zeros(plan))
            self.register_buffer("shared_std", torch.ones(plan))
            keep = _keep_plan_of_another_length
            self.register_load_state_dict_pre_hook(keep)  # type: ignore[no-untyped-call]
        self.register_buffer("return_size", torch.ones(()))
        self.new_task: NewTask | None = None
        self._bind()

    def _make_anchor(self) -> Anchor | MovingAnchor:
        rate = self.config.transfer.anchor_rate
        return MovingAnchor(self.policy, rate) if rate else Anchor(self.world_model, self.policy)

    @property
    def fixed_behavior(self) -> Anchor | None:
        """The source's policy with the model that it reads, where these act."""
        fixed = self.anchor if self.config.fixes_behavior else None
        assert not isinstance(fixed, MovingAnchor)
        return fixed

    def _numbers_told(self, features: int) -> int:
        """How many χ reads of each state. Raises UserError for keys that are not observed."""
        vectors, reads = self.world_model.preprocess.vectors, self.config.skills.reads
        if unknown := [key for key in reads if key not in vectors]:
            raise UserError(
                f"skills.reads: {self.config.task} has no vector {', '.join(unknown)}: choose of "
                f"{', '.join(vectors) or 'none, as it observes images alone'}"
            )
        return sum(vectors[key] for key in reads) if reads else features

    def told(self, feature: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch told"]:
        """What χ reads of states: themselves, or what is decoded of them (`skills.reads`)."""
        reads = self.config.skills.reads
        if not reads:
            return feature
        decoded = self.world_model.decoder.vectors_of(feature)
        return torch.cat([decoded[key] for key in reads], -1)

    def _bind(self) -> None:
        """Attributes, so that a faster copy can have faster ones (`backends`)."""
        self.transition: Transition = self._transition
        self.predict: Predict = self._predict
        self.predict_heads: Callable[[Tensor], HeadOutputs] = self._predict_heads
        self.imagine: Callable[[Latent, Tensor, RolloutNoise], Rollout] = self._imagine
        self.judge_at_once: Callable[[Latent, Tensor, RolloutNoise], HeadOutputs] | None = None
        self.judge_actions_at_once: Callable[[Latent, Tensor, RolloutNoise], HeadOutputs] | None
        self.judge_actions_at_once = None
        self.log_likelihood: Callable[[Latent, Tensor, Tensor, Tensor], Tensor] = (
            self._log_likelihood
        )

    def for_acting(self) -> "Networks":
        """The same networks, weights and all, with the settings of an agent's plans."""
        if self.config.planner.acting_horizon is None:
            return self
        same = copy(self)
        same.config = self.config.acting
        same._bind()
        return same

    def _transition(
        self, latent: Latent, skill: Float[Tensor, "batch skill"], noise: RolloutNoise
    ) -> tuple[Latent, Float[Tensor, "batch action"]]:
        """One step of imagination: the policy acts, the RSSM answers. Planned actions need no
        policy."""
        action = self._act(latent, skill, noise.action)
        return self.world_model.rssm.imagine(latent, action, noise.latent), action

    def _predict(
        self, latent: Latent, skill: Float[Tensor, "batch skill"], noise: Tensor
    ) -> tuple[Tensor, Normal]:
        """The same, of which the last draw is left out; `noise` is the action's."""
        return self.world_model.rssm.predict(latent, self._act(latent, skill, noise))

    def _act(
        self,
        latent: Latent,
        skill: Float[Tensor, "batch skill"],
        noise: Float[Tensor, "batch action"],
    ) -> Float[Tensor, "batch action"]:
        if self.config.plans_actions:
            return skill.clamp(-1, 1)
        read = latent.feature
        # A plan that is improved by its gradient wants the whole of it.
        if self.config.policy.stop_input_gradient and not skill.requires_grad:
            read = read.detach()
        return self.policy(read, skill).sample(noise)

    @property
    def heads(self) -> list[MLP]:
        """What judges states: reward, termination if it is predicted, and the slow copy of the
        value if there is one."""
        model = self.world_model
        heads = [model.reward_head]
        if model.config.termination:
            heads.append(model.termination_head)
        if not self.config.plans_actions:
            heads.append(self.slow_value.net)
        return heads

    def head_outputs(self, said: list[Float[Tensor, "*batch"]]) -> HeadOutputs:
        """Of what the heads say; values are 0 where none is learned."""
        reward, *others = said
        ends, learns = self.world_model.config.termination, not self.config.plans_actions
        going_on = torch.sigmoid(-others[0]) if ends else torch.ones_like(reward)
        return HeadOutputs(reward, going_on, others[-1] if learns else torch.zeros_like(reward))

    def _predict_heads(self, feature: Float[Tensor, "*batch features"]) -> HeadOutputs:
        return self.head_outputs([head(feature).squeeze(-1) for head in self.heads])

    def judge(self, rollout: Rollout) -> HeadOutputs:
        """What the heads say of the states s_1..s_H, or of a new task what it pays in them."""
        said = self.predict_heads(rollout.feature[1:])
        if self.new_task is None:
            return said
        value = said.value if self.new_task.has_value else torch.zeros_like(said.value)
        return said._replace(reward=self.new_task.reward(self, rollout), value=value)

    def judge_plans(
        self,
        start: Latent,
        plan: Float[Tensor, "batch plan skill"],
        noise: RolloutNoise,
    ) -> HeadOutputs:
        """What the heads say of the states s_1..s_H that plans lead to, where only that is wanted.

        Row i of `plan` begins at row i mod s of `start`, which has s, and shares the noise of row
        i mod n of it, which has n.
        """
        at_once = self.judge_at_once
        if at_once is not None and self.new_task is None and not torch.is_grad_enabled():
            return at_once(start, plan, noise)
        start, noise = for_rows(len(plan), start, noise)
        return self.judge(self.imagine(start, plan, noise))

    def judge_actions(
        self, start: Latent, actions: Float[Tensor, "batch length action"]
    ) -> HeadOutputs:
        """What the heads say of the states s_1..s_H that sequences of actions lead to, each the
        mean of what the model expects. Row i begins at row i mod s of `start`, which has s."""
        count, length, _ = actions.shape
        sizes = self.action_dim, self.config.model.stoch
        none = RolloutNoise(*(torch.zeros(length, 1, size, device=self.device) for size in sizes))
        at_once = self.judge_actions_at_once
        if at_once is not None and self.new_task is None and not torch.is_grad_enabled():
            return at_once(start, actions, none)
        rows, noise = for_rows(count, start, none)
        plan = actions.clamp(-1, 1).to(self.dtype)
        return self.judge(imagine(rows.to(self.dtype), plan, 1, self._answer, noise))

    def _answer(
        self, latent: Latent, action: Float[Tensor, "batch action"], noise: RolloutNoise
    ) -> tuple[Latent, Float[Tensor, "batch action"]]:
        """One step of imagination with a given action."""
        return self.world_model.rssm.imagine(latent, action, noise.latent), action

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self.world_model.rssm.enter.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.return_size.device

    def draw_noise(self, *shape: int, generator: torch.Generator) -> RolloutNoise:
        """Standard normal noise `[*shape, ...]`, of which the last axes are steps and rows."""
        sizes = [self.action_dim, self.config.model.stoch]
        noise = torch.randn((*shape, sum(sizes)), generator=generator, device=self.device)
        return RolloutNoise(*noise.split(sizes, -1))

    def _imagine(
        self, start: Latent, plan: Float[Tensor, "batch plan skill"], noise: RolloutNoise
    ) -> Rollout:
        """Follow a plan with the policy in the world model."""
        skill_length = self.config.planner.skill_length
        start, plan = start.to(self.dtype), plan.to(self.dtype)
        return imagine(start, plan, skill_length, self.transition, noise)

    def _log_likelihood(
        self,
        start: Latent,
        plan: Float[Tensor, "batch plan skill"],
        action_noise: Float[Tensor, "horizon batch action"],
        stoch: Float[Tensor, "horizon batch stoch"],
    ) -> Float[Tensor, " batch"]:
        """How likely states of rollouts were, had other plans been followed (A.6)."""
        start, plan, stoch = start.to(self.dtype), plan.to(self.dtype), stoch.to(self.dtype)
        skill_length = self.config.planner.skill_length
        return log_likelihood(start, plan, skill_length, self.predict, action_noise, stoch)

    @torch.no_grad()
    def update_slow_value(self) -> None:
        """Move the slow copy of the value by `slow_rate` (1 copies it)."""
        slow: list[Tensor] = list(self.slow_value.parameters())
        fast: list[Tensor] = list(self.value.parameters())
        torch._foreach_lerp_(slow, fast, self.config.value.slow_rate)

    def move_anchor(self) -> None:
        """Let it follow the policy, if it moves."""
        if isinstance(self.anchor, MovingAnchor):
            self.anchor.follow(self.policy)

    @torch.no_grad()
    def track_return_size(
        self, returns: Float[Tensor, "time batch"], weight: Float[Tensor, " batch"]
    ) -> None:
        """Follow the mean absolute value of imagined task returns."""
        self.return_size.lerp_((weight * returns.abs()).mean(), 0.01)


def _keep_plan_of_another_length(
    networks: nn.Module, weights: dict[str, Tensor], *_: object
) -> None:
    """The ζ that all states share is as long as K and H have it: where these have changed since
    `weights` were saved, it begins anew."""
    for name in ("shared_mean", "shared_std"):
        own = networks.get_buffer(name)
        if name in weights and weights[name].shape != own.shape:
            weights[name] = own
