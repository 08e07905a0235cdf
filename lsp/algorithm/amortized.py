"""Amortised planning: q(z | s) is fitted to the plans made while acting (section 6).

Updates draw their skills from it, so that planning happens while acting alone; there it is ζ(0).
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lsp.algorithm.cem import Plan
from lsp.config import Config
from lsp.models.networks import Networks
from lsp.models.world_model import Latent, Metrics


@torch.no_grad()
def proposed_plan(networks: Networks, feature: Float[Tensor, "starts features"]) -> Plan:
    """ζ = q(z | s) of each state."""
    return Plan(*networks.proposal(feature))


def proposal_loss(
    networks: Networks, latents: Latent, batch: Mapping[str, Tensor]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Minus log q(z | s) of the elites of each plan in replayed sequences, on average over them.

    Of elites the replay knows mean and deviation, and of those alone the likelihood under a Normal
    depends. A plan stands in the row of the action that it led to, and was made in the state of the
    row before, whose posterior `latents` `[batch, time]` has. The gradient reaches q alone.
    """
    q = networks.proposal(latents.detach().feature[:, :-1])
    mean, std = batch["plan_mean"][:, 1:], batch["plan_std"][:, 1:]
    weight = (batch["is_planned"][:, 1:] & ~batch["is_first"][:, 1:]).float()
    spread = 0.5 * (std / q.std).square().sum(-1)
    each = (spread - q.log_prob(mean)).mean(-1)
    count = weight.sum().clamp(min=1)
    loss = (weight * each).sum() / count
    return loss, {
        "proposal/loss": loss,
        "proposal/error": ((weight * (q.mean - mean).square().mean((-1, -2))).sum() / count).sqrt(),
        "proposal/std": q.std.mean(),
        "proposal/plans": weight.sum(),
    }


def blank_plans(rows: int, config: Config) -> dict[str, np.ndarray]:
    """Rows of a replay say which plan an action came from; here none was made for any.

    They hold ζ's mean and deviation, and whether there is one; nothing at all where q is not
    learned.
    """
    if not config.has_proposal:
        return {}
    shape = rows, config.plan_length, config.skills.dim
    plans = {name: np.zeros(shape, np.float32) for name in ("plan_mean", "plan_std")}
    return plans | {"is_planned": np.zeros(rows, bool)}
