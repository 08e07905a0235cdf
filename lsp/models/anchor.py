"""What a policy that adapts is held to: the source's policy, or a slow copy of itself (ours).

While a model learns on, its latents move, and a policy of the same weights does something else.
So the source's policy is asked about observations, not about latents: it reads what the source's
own model, frozen, makes of them. A slow copy moves with the policy, and reads what the policy does.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.models.actor_critic import Policy
from lsp.models.distributions import TanhNormal
from lsp.models.encoders import Observation
from lsp.models.world_model import Latent, Scan, WorldModel
from lsp.rows import observations


class Anchor(nn.Module):
    """The source's encoder, RSSM and policy, all frozen."""

    def __init__(self, model: WorldModel, policy: Policy):
        super().__init__()
        self.preprocess, self.encoder = deepcopy(model.preprocess), deepcopy(model.encoder)
        self.rssm, self.policy = deepcopy(model.rssm), deepcopy(policy)
        self.requires_grad_(False)

    def encode(self, observation: Observation) -> Float[Tensor, "*batch embedding"]:
        return self.encoder(self.preprocess(observation))

    @torch.no_grad()
    def forward(
        self,
        batch: Mapping[str, Tensor],
        skill: Float[Tensor, "rows skill"],
        noise: Float[Tensor, "batch time stoch"],
        scan: Scan | None = None,
    ) -> TanhNormal:
        """The source's policy in every state of replayed sequences `[batch, time, ...]`, whose rows
        are `batch · time`, each under a skill of its own. `scan` may be a faster one."""
        embedding = self.encode(observations(batch))
        start = self.rssm.initial(noise.shape[0])
        scan = self.rssm.scan if scan is None else scan
        latents: Latent = scan(start, batch["action"], embedding, batch["is_first"], noise)[1]
        return self.policy(latents.flatten().feature, skill)


class MovingAnchor(nn.Module):
    """A slow copy of the policy: a trust region that moves with it."""

    def __init__(self, policy: Policy, rate: float):
        super().__init__()
        self.policy, self.rate = deepcopy(policy).requires_grad_(False), rate

    @torch.no_grad()
    def forward(
        self, feature: Float[Tensor, "rows features"], skill: Float[Tensor, "rows skill"]
    ) -> TanhNormal:
        """What the policy did of late."""
        return self.policy(feature, skill)

    @torch.no_grad()
    def follow(self, policy: Policy) -> None:
        """Take over the share `rate` of it."""
        slow: list[Tensor] = list(self.policy.parameters())
        torch._foreach_lerp_(slow, list[Tensor](policy.parameters()), self.rate)
