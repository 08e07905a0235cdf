"""The other estimator of the mutual information of skills and states, which needs no χ (A.6).

docs/paper/mutual_information.md derives it.
"""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.models.imagination import Rollout, RolloutNoise
from lsp.models.networks import Networks
from lsp.models.world_model import Latent


def information(
    log_likelihood: Float[Tensor, "skills *batch"],
) -> Float[Tensor, "*batch"]:
    """What states tell of z: log p({s} | z, s0) - log mean_z' p({s} | z', s0), in nats.

    The first of the skills z' is z itself. On average this is a lower bound of I(z; {s} | s0), and
    it is never more than the log of their number.
    """
    return log_likelihood[0] - log_likelihood.logsumexp(0) + log(len(log_likelihood))


def forward_information(
    networks: Networks,
    rollout: Rollout,
    plans: Float[Tensor, "batch plan skill"],
    noise: RolloutNoise,
    rivals: Float[Tensor, "rivals batch plan skill"],
) -> Float[Tensor, "segments batch"]:
    """`information` of each complete segment of a rollout that followed `plans`.

    `rivals` are plans that could have been followed from the same starts, with the same `noise`.
    All densities are computed in one call. The gradient reaches the policy through the states that
    were drawn and through its actions under every skill; a segment's s0 is a constant.
    """
    config = networks.config
    length, deter = config.planner.skill_length, config.model.deter
    count = (rollout.feature.shape[0] - 1) // length
    steps, skills, rows = count * length, len(rivals) + 1, len(plans)

    def of_rows(x: Tensor) -> Tensor:
        """`[steps, batch, ...]` to `[length, skills · segments · batch, ...]`."""
        apart = x[:steps].unflatten(0, (count, length)).transpose(0, 1)
        copies: Tensor = apart.unsqueeze(1).expand(-1, skills, -1, -1, -1)
        return copies.flatten(1, 3)

    starts = rollout.feature[:steps:length].detach().expand(skills, -1, -1, -1).flatten(0, 2)
    followed = torch.cat([plans[None], rivals])[:, :, :count].transpose(1, 2).flatten(0, 2)
    scores = networks.log_likelihood(
        Latent(starts[:, :deter], starts[:, deter:]),
        followed[:, None],
        of_rows(noise.action),
        of_rows(rollout.feature[1:, :, deter:]),
    )
    return information(scores.view(skills, count, rows))


def others_of_start(
    plans: Float[Tensor, "batch plan skill"], rollouts_per_start: int
) -> Float[Tensor, "rivals batch plan skill"]:
    """Plans of the other rollouts from each rollout's own start; those of a start lie together."""
    grouped = plans.unflatten(0, (-1, rollouts_per_start))
    return torch.stack([grouped.roll(-i, 1).flatten(0, 1) for i in range(1, rollouts_per_start)])
