"""`Networks.predict_heads` by kernels: what all heads say of imagined states."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.backends.native.mlp import Call, NativeMLP
from lsp.models.networks import HeadOutputs, Networks


class Heads:
    """The heads of `networks`, with weights in `dtype`; differentiable in the states alone."""

    def __init__(self, networks: Networks, dtype: torch.dtype):
        self.networks = networks
        self.heads = [NativeMLP(head, dtype) for head in networks.heads]

    def __call__(self, feature: Float[Tensor, "*batch features"]) -> HeadOutputs:
        flat = feature.flatten(0, -2)
        for head in self.heads:
            head.packed.refresh()
        if torch.is_grad_enabled():
            said = _Heads.apply(self.heads, flat)  # type: ignore[no-untyped-call]
        else:
            said = [Call(head, flat, False).forward() for head in self.heads]
        return self.networks.head_outputs([y.view(feature.shape[:-1]) for y in said])


class _Heads(torch.autograd.Function):
    """One output of each head, with its slope.

    A head is frozen and says one number, so that its gradient with respect to the states is known
    up to a factor as soon as it has been computed: nothing has to be kept of the pass.
    """

    @staticmethod
    def forward(ctx: Any, heads: list[NativeMLP], states: Tensor) -> tuple[Tensor, ...]:
        said = [Call(head, states, False).forward_with_slope() for head in heads]
        outputs, slopes = zip(*said, strict=True)
        ctx.save_for_backward(*slopes)
        ctx.dtype = states.dtype
        return outputs

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[None, Tensor]:
        (first, *others), slopes = (x.to(ctx.dtype) for x in given), ctx.saved_tensors
        total = first * slopes[0]
        for factor, slope in zip(others, slopes[1:], strict=True):
            total.addcmul_(factor, slope)
        return None, total
