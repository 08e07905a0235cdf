"""q(z | s): the plan that is proposed for a state, learned from what planning found (section 6)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.config import SkillsConfig
from lsp.models.distributions import Normal
from lsp.models.layers import MLP

MOST_MEAN = 2.0
"""Means stay within this, where 19 in 20 of N(0, I) lie."""
RAW_STD = 3.0
"""Output beyond which the std is near its upper bound, where it begins."""


class SkillProposal(nn.Module):
    """A diagonal Normal over the skills of a whole plan, which begins as nearly N(0, I).

    It stays near: plans begin from it, and it learns from what becomes of them, so that otherwise
    each generation of plans could leave the skills that are trained a little further behind.
    """

    def __init__(self, features: int, plan_length: int, config: SkillsConfig):
        super().__init__()
        self.plan_length, self.min_std = plan_length, config.proposal_min_std
        self.net = MLP(features, config.layers, 2 * plan_length * config.dim)
        for weight in self.net[-1].parameters():
            nn.init.zeros_(weight)

    def forward(self, feature: Float[Tensor, "*batch features"]) -> Normal:
        """Mean and deviation `[*batch, plan, skill]`; the latter lies between `min_std` and 1."""
        mean, std = self.net(feature).unflatten(-1, (self.plan_length, -1)).chunk(2, -1)
        std = self.min_std + (1 - self.min_std) * torch.sigmoid(std + RAW_STD)
        return Normal(MOST_MEAN * torch.tanh(mean / MOST_MEAN), std)
