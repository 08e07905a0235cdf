"""The actor, a low-level policy q(a | s, z), and the critic, a value v(s)."""

from collections.abc import Callable
from math import expm1, log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lsp.config import PolicyConfig, ValueConfig
from lsp.models.distributions import TanhNormal
from lsp.models.layers import MLP


class Policy(nn.Module):
    """The actor: a tanh-Normal over actions, conditioned on the latent feature and the skill."""

    __call__: Callable[..., TanhNormal]

    def __init__(self, features: int, skill_dim: int, action_dim: int, config: PolicyConfig):
        super().__init__()
        self.action_dim, self.config = action_dim, config
        self.net = MLP(features + skill_dim, config.layers, 2 * action_dim, config.layer_norm)
        # softplus(raw) = std at the start: Dreamer v1's 4.9932 for a std of 5.
        self.raw_init_std = log(expm1(config.init_std))

    def forward(
        self, feature: Float[Tensor, "*batch features"], skill: Float[Tensor, "*batch skill"]
    ) -> TanhNormal:
        """`skill` has a last axis of size 0 where the method has no skills."""
        mean, std = self.net(torch.cat([feature, skill], -1)).chunk(2, -1)
        mean = 5 * torch.tanh(mean / 5)
        return TanhNormal(mean, F.softplus(std + self.raw_init_std) + self.config.min_std)


class Value(nn.Module):
    """v(s), the critic: expected λ-return from s on, excluding the reward of s itself."""

    def __init__(self, features: int, config: ValueConfig):
        super().__init__()
        self.net = MLP(features, config.layers, 1, config.layer_norm)

    def forward(self, feature: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch"]:
        return self.net(feature).squeeze(-1)
