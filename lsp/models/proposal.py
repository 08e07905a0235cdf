"""q(z | s): the plan that is proposed for a state, learned from what planning found (section 6)."""

from math import expm1, log

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lsp.config import SkillsConfig
from lsp.models.distributions import Normal
from lsp.models.layers import MLP


class SkillProposal(nn.Module):
    """A diagonal Normal over the skills of a whole plan, which begins as N(0, I)."""

    def __init__(self, features: int, plan_length: int, config: SkillsConfig):
        super().__init__()
        self.plan_length, self.min_std = plan_length, config.proposal_min_std
        self.net = MLP(features, config.layers, 2 * plan_length * config.dim)
        for weight in self.net[-1].parameters():
            nn.init.zeros_(weight)
        self.raw_init_std = log(expm1(1 - self.min_std))

    def forward(self, feature: Float[Tensor, "*batch features"]) -> Normal:
        """Mean and deviation `[*batch, plan, skill]`; the latter is `min_std` at least."""
        said = self.net(feature).unflatten(-1, (self.plan_length, -1))
        mean, std = said.chunk(2, -1)
        return Normal(mean, F.softplus(std + self.raw_init_std) + self.min_std)
