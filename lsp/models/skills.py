"""Skills: the backward skill predictor χ and the intrinsic reward (section 3.2, A.7)."""

from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.config import SkillsConfig
from lsp.models.distributions import LOG_2PI, Normal, softly_clamped_std
from lsp.models.layers import MLP


class SkillPredictor(nn.Module):
    """q_χ(z | {s}, s0), from s0 and `num_states` states spread evenly over a segment."""

    def __init__(self, features: int, config: SkillsConfig):
        super().__init__()
        self.config = config
        inputs = (config.num_states + 1) * features
        self.net = MLP(inputs, config.layers, 2 * config.dim)

    def forward(
        self,
        segment: Float[Tensor, "length *batch features"],
        generator: torch.Generator,
    ) -> Normal:
        """`segment` holds s0 and the K states after it; χ reads it through noise (A.7)."""
        states = segment.unbind(0)
        inputs = torch.cat([states[step] for step in self._steps(len(states) - 1)], -1)
        noise = torch.randn(inputs.shape, generator=generator, device=inputs.device)
        mean, log_std = self.net(inputs + self.config.input_noise * noise).chunk(2, -1)
        return Normal(mean, softly_clamped_std(log_std, self.config.std_bounds))

    def _steps(self, skill_length: int) -> list[int]:
        count = self.config.num_states
        return [0] + [ceil((i + 1) * skill_length / count) for i in range(count)]


def segments(
    feature: Float[Tensor, "time *batch features"], skill_length: int
) -> list[Float[Tensor, "length *batch features"]]:
    """The complete K-segments of a rollout s_0..s_H, each with the state it starts from."""
    count = (feature.shape[0] - 1) // skill_length
    return [feature[k * skill_length : (k + 1) * skill_length + 1] for k in range(count)]


def standard_normal_entropy(dim: int) -> float:
    """Nats; 4.26 for three dimensions."""
    return 0.5 * dim * (LOG_2PI + 1)


def intrinsic_reward(
    log_q: list[Float[Tensor, "*batch"]], horizon: int, skill_length: int, skill_dim: int
) -> Float[Tensor, "horizon *batch"]:
    """log q_χ(z | {s}, s0) + H[N(0, I)] on arriving at the last state of each complete segment.

    The constant entropy keeps the reward positive for a χ that knows anything, so that ending an
    episode early never pays. Index t belongs to s_{t+1}.
    """
    bonus = torch.stack(log_q) + standard_normal_entropy(skill_dim)
    return paid_at_ends(bonus, horizon, skill_length)


def paid_at_ends(
    worth: Float[Tensor, "segments *batch"], horizon: int, skill_length: int
) -> Float[Tensor, "horizon *batch"]:
    """What complete segments are worth, on arriving at the last state of each."""
    reward = worth.new_zeros(horizon, *worth.shape[1:])
    # A slice, because a list of indices would have to be copied to a GPU.
    reward[skill_length - 1 :: skill_length] = worth
    return reward


def batch_density(skill: Float[Tensor, "batch skill"]) -> Normal:
    """A diagonal Normal fitted to a batch of skills: the batch's own skill distribution."""
    return Normal(skill.mean(0), skill.std(0, correction=0).clamp(min=1e-3))
