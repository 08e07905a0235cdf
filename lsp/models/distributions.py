"""Diagonal Normals and the squashed Normal of the policy, as plain functions on tensors."""

from math import log, pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LOG_2PI = log(2 * pi)


class Normal(NamedTuple):
    """Diagonal Normal over the last axis."""

    mean: Float[Tensor, "*batch dim"]
    std: Float[Tensor, "*batch dim"]

    def sample(self, noise: Float[Tensor, "*#batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Reparameterised sample from standard normal `noise`."""
        return self.mean + self.std * noise

    def log_prob(self, value: Float[Tensor, "*#batch dim"]) -> Float[Tensor, "*batch"]:
        """Nats, summed over the last axis."""
        squares = ((value - self.mean) / self.std).square()
        return -0.5 * (squares + LOG_2PI).sum(-1) - self.std.log().sum(-1)

    def kl(self, other: "Normal") -> Float[Tensor, "*batch"]:
        """KL(self ‖ other) in nats, summed over the last axis."""
        ratio = (self.std / other.std).square()
        distance = ((self.mean - other.mean) / other.std).square()
        return 0.5 * (ratio + distance - 1 - ratio.log()).sum(-1)


def softly_clamped_std(
    log_std: Float[Tensor, "*batch"], bounds: tuple[float, float]
) -> Float[Tensor, "*batch"]:
    """exp(log_std), bent smoothly into `bounds` so that gradients survive outside (Chua 2018)."""
    low, high = log(bounds[0]), log(bounds[1])
    log_std = high - F.softplus(high - log_std)
    return (low + F.softplus(log_std - low)).exp()


class TanhNormal(NamedTuple):
    """tanh of a diagonal Normal: actions in [-1, 1]."""

    mean: Float[Tensor, "*batch dim"]
    std: Float[Tensor, "*batch dim"]

    def sample(self, noise: Float[Tensor, "*#batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Reparameterised sample from standard normal `noise`."""
        return torch.tanh(self.mean + self.std * noise)

    def mode(self) -> Float[Tensor, "*batch dim"]:
        """tanh of the mean: the median of each coordinate."""
        return torch.tanh(self.mean)

    def kl(self, other: "TanhNormal") -> Float[Tensor, "*batch"]:
        """KL(self ‖ other) in nats: that of the Normals, since both are squashed alike."""
        return Normal(self.mean, self.std).kl(Normal(other.mean, other.std))

    def entropy(self, noise: Float[Tensor, "*#batch dim"]) -> Float[Tensor, "*batch"]:
        """An unbiased estimate in nats, summed over the last axis, from the sample of `noise`.

        H[tanh(u)] = H[u] + E[log tanh'(u)]: the Normal's entropy is known, and what squashing takes
        from it is that of the one sample.
        """
        normal = 0.5 * (LOG_2PI + 1) + self.std.log()
        return (normal + _log_slope(self.mean + self.std * noise)).sum(-1)

    def likeliest(self, noise: Float[Tensor, "samples *batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The sample of highest density among `samples` (Dreamer v1's mode)."""
        before = self.mean + self.std * noise
        density = -0.5 * noise.square().sum(-1) - _log_slope(before).sum(-1)
        best = density.argmax(0)[None, ..., None].expand(1, *before.shape[1:])
        return torch.tanh(before.gather(0, best)[0])


def _log_slope(before: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """log of d tanh(u) / du at u = `before`, where 1 - tanh(u)² would have been rounded to 0."""
    return 2 * (log(2) - before - F.softplus(-2 * before))
