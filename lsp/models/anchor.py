"""What the source's policy would do: an anchor for a policy that adapts (ours).

While a model learns on, its latents move, and a policy of the same weights does something else.
So the source's policy is asked about observations, not about latents: it reads what the source's
own model, frozen, makes of them.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.models.actor_critic import Policy
from lsp.models.distributions import TanhNormal
from lsp.models.world_model import Latent, Scan, WorldModel
from lsp.rows import observations


class Anchor(nn.Module):
    """The source's encoder, RSSM and policy, all frozen."""

    def __init__(self, model: WorldModel, policy: Policy):
        super().__init__()
        self.preprocess, self.encoder = deepcopy(model.preprocess), deepcopy(model.encoder)
        self.rssm, self.policy = deepcopy(model.rssm), deepcopy(policy)
        self.requires_grad_(False)

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
        embedding = self.encoder(self.preprocess(observations(batch)))
        start = self.rssm.initial(noise.shape[0])
        scan = self.rssm.scan if scan is None else scan
        latents: Latent = scan(start, batch["action"], embedding, batch["is_first"], noise)[1]
        return self.policy(latents.flatten().feature, skill)
