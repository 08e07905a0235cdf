"""Everything that is learned, in one module: world model, policy, value, skill predictor."""

from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lsp.config import Config
from lsp.imagination import Rollout, RolloutNoise, Transition, imagine
from lsp.nets import MLP
from lsp.observations import Shapes
from lsp.policy import Policy, Value
from lsp.skills import SkillPredictor
from lsp.world_model import RSSM, Latent, WorldModel


class ImaginationStep(nn.Module):
    """One step of imagination: the policy acts, the RSSM answers."""

    def __init__(self, policy: Policy, rssm: RSSM):
        super().__init__()
        self.policy, self.rssm = policy, rssm

    def forward(
        self, latent: Latent, skill: Float[Tensor, "batch skill"], noise: RolloutNoise
    ) -> tuple[Latent, Float[Tensor, "batch action"]]:
        """The next latent and the action that led to it."""
        action = self.policy(latent.feature, skill).sample(noise.action)
        return self.rssm.imagine(latent, action, noise.latent), action


class Judgement(NamedTuple):
    """What the heads say of states s: r(s), the chance that the episode goes on, and v(s)."""

    reward: Float[Tensor, "*batch"]
    continuation: Float[Tensor, "*batch"]
    value: Float[Tensor, "*batch outputs"]


class Heads(nn.Module):
    """Reward, termination and value of imagined states, all evaluated at once."""

    def __init__(self, model: WorldModel, value: Value):
        super().__init__()
        self.reward, self.value = model.reward_head, value.net
        self.termination = model.termination_head if model.config.termination else None

    def forward(self, feature: Float[Tensor, "*batch features"]) -> Judgement:
        reward = _precisely(self.reward, feature).squeeze(-1)
        going_on = torch.ones_like(reward)
        if self.termination is not None:
            going_on = torch.sigmoid(-_precisely(self.termination, feature).squeeze(-1))
        return Judgement(reward, going_on, _precisely(self.value, feature))


def _precisely(head: MLP, feature: Tensor) -> Tensor:
    """The head with its last layer in fp32: bf16 would round a value of 100 to steps of 0.5."""
    *hidden, last = head
    assert isinstance(last, nn.Linear)
    for layer in hidden:
        feature = layer(feature)
    return F.linear(feature.float(), last.weight.float(), last.bias.float())


class Networks(nn.Module):
    """θ (world model), φ (policy), ψ (value) and χ (skill predictor, where there are skills)."""

    return_spread: Tensor
    shared_mean: Tensor
    shared_std: Tensor

    def __init__(self, shapes: Shapes, action_dim: int, config: Config):
        super().__init__()
        self.config, self.action_dim = config, action_dim
        self.world_model = WorldModel(shapes, action_dim, config.model)
        features = self.world_model.features
        self.policy = Policy(features, config.skills.dim, action_dim, config.policy)
        self.value = Value(features, 2 if config.value.split else 1, config.value)
        self.slow_value = deepcopy(self.value).requires_grad_(False)
        if config.has_skills:
            self.skill_predictor = SkillPredictor(features, config.skills)
            plan = (1, config.plan_length, config.skills.dim)
            self.register_buffer("shared_mean", torch.zeros(plan))
            self.register_buffer("shared_std", torch.ones(plan))
        self.register_buffer("return_spread", torch.ones(()))

    @property
    def transition(self) -> ImaginationStep:
        """The reference: eager, in full precision."""
        return ImaginationStep(self.policy, self.world_model.rssm)

    @property
    def heads(self) -> Heads:
        """The reference heads; values come from the slow copy."""
        return Heads(self.world_model, self.slow_value)

    @property
    def device(self) -> torch.device:
        return self.return_spread.device

    def draw_noise(self, horizon: int, *rows: int, generator: torch.Generator) -> RolloutNoise:
        """Standard normal noise for a rollout of `horizon` steps in `rows` rows."""
        sizes = [self.action_dim, self.config.model.stoch]
        shape = (horizon, *rows, sum(sizes))
        noise = torch.randn(shape, generator=generator, device=self.device)
        return RolloutNoise(*noise.split(sizes, -1))

    def imagine(
        self,
        start: Latent,
        plan: Float[Tensor, "batch plan skill"],
        noise: RolloutNoise,
        transition: Transition | None = None,
    ) -> Rollout:
        """Follow a plan with the policy in the world model, or in a faster copy of the two."""
        if transition is None:
            transition = self.transition
        return imagine(start, plan, self.config.planner.skill_length, transition, noise)

    @torch.no_grad()
    def update_slow_value(self) -> None:
        """Move the slow copy of the value by `slow_rate` (1 copies it)."""
        slow: list[Tensor] = list(self.slow_value.parameters())
        fast: list[Tensor] = list(self.value.parameters())
        torch._foreach_lerp_(slow, fast, self.config.value.slow_rate)

    @torch.no_grad()
    def track_return_spread(self, returns: Float[Tensor, "*batch"]) -> None:
        """Follow the 5th-to-95th percentile range of imagined task returns (as DreamerV3 does)."""
        low, high = torch.quantile(returns.flatten(), returns.new_tensor([0.05, 0.95]))
        self.return_spread.lerp_(high - low, 0.01)
