"""`Networks.log_likelihood` by the kernels of imagination."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.backends.native.imagination import Call, Imagination
from lsp.backends.native.layers import fp32, pointer
from lsp.models.imagination import RolloutNoise
from lsp.models.world_model import Latent


class Likelihood:
    """How likely states were under other plans; with the weights of `imagination`."""

    def __init__(self, imagination: Imagination):
        self.imagination = imagination

    def __call__(
        self,
        start: Latent,
        plan: Float[Tensor, "batch plan skill"],
        action_noise: Float[Tensor, "horizon batch action"],
        stoch: Float[Tensor, "horizon batch stoch"],
    ) -> Float[Tensor, " batch"]:
        """`Networks.log_likelihood`; gradients reach `stoch` and the policy."""
        of = self.imagination
        of.policy.refresh()
        of.model.refresh()
        inputs = (*start, plan, action_noise, stoch)
        if not torch.is_grad_enabled():
            return Weighing(of, start, plan, RolloutNoise(action_noise, stoch)).score()
        score: Tensor = _Likelihood.apply(of, *inputs, *of.learned)  # type: ignore[no-untyped-call]
        return score


class Weighing(Call):
    """One rollout that draws no states: they are in the place of its noise."""

    def __init__(self, of: Imagination, start: Latent, plan: Tensor, noise: RolloutNoise):
        super().__init__(of, start, plan, noise)
        self.scores = torch.empty(self.rows)
        self.arguments.score = pointer(self.scores)

    def score(self) -> Tensor:
        """Log densities `[batch]`. A copy, as autograd would keep all of this alive."""
        self.run()
        return self.scores.clone()

    def score_backward(self, d_score: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradients of what was drawn, and of the policy's parameters."""
        given, nothing = fp32(d_score), torch.zeros_like(self.actions)
        d_drawn = torch.empty_like(self.read[-1])
        self.arguments.d_score, self.arguments.d_actions = pointer(given), pointer(nothing)
        self.arguments.d_drawn = pointer(d_drawn)
        return d_drawn, self.learn()


class _Likelihood(torch.autograd.Function):
    """Scores of a rollout, differentiable in what was drawn and in the policy's parameters."""

    @staticmethod
    def forward(ctx: Any, of: Imagination, *inputs: Tensor) -> Tensor:
        deter, stoch, plan, action_noise, drawn, *_learned = inputs
        call = Weighing(of, Latent(deter, stoch), plan, RolloutNoise(action_noise, drawn))
        if any(ctx.needs_input_grad):
            call.keep()
            ctx.call, ctx.dtype = call, drawn.dtype
        return call.score()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        d_drawn, found = ctx.call.score_backward(given[0])
        matched = (x.to(y.dtype) for x, y in zip(found, ctx.call.of.learned, strict=True))
        return (None,) * 5 + (d_drawn.to(ctx.dtype), *matched)
