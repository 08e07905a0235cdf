"""`RSSM.scan` by kernels."""

from ctypes import Structure, byref, c_double, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from lsp.distributions import Normal
from lsp.native.build import library
from lsp.native.imagination import recurrence
from lsp.native.layers import (
    Affine,
    Gradient,
    Hidden,
    Packed,
    fp32,
    padded,
    parts_of,
    pointer,
    rows_per_block,
)
from lsp.world_model import RSSM, Latent

ENTER, INPUT, HIDDEN, FIRST, LAST = range(5)  # the order of layers


class Arguments(Structure):
    """Filter in filter.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "steps", "block")),
        *((name, c_int64) for name in ("deter", "stoch", "action", "embedding")),
        *((name, c_void_p) for name in ("enter", "gru_input", "gru_hidden", "posterior")),
        ("min_std", c_double),
        *((name, c_void_p) for name in ("actions", "embeddings", "keep", "noise")),
        *((name, c_void_p) for name in ("start_deter", "start_stoch")),
        *((name, c_void_p) for name in ("deters", "stochs", "means", "stds")),
        *((name, c_void_p) for name in ("enter_in", "entered", "recalled")),
        *((name, c_void_p) for name in ("posterior_in", "posterior_hidden")),
        ("enter_kept", Hidden),
        ("posterior_kept", Hidden),
        *((name, c_void_p) for name in ("gates", "slopes")),
        *((name, c_void_p) for name in ("d_deters", "d_stochs", "d_means", "d_stds")),
        ("d_embeddings", c_void_p),
        *((name, c_void_p) for name in ("d_enter", "d_gru_input", "d_gru_hidden")),
        *((name, c_void_p) for name in ("d_posterior_hidden", "d_posterior")),
        ("d_enter_affine", Affine),
        ("d_posterior_affine", Affine),
    )


class Filter:
    """Filters sequences with `rssm`, and learns it; in fp32."""

    def __init__(self, rssm: RSSM):
        self.rssm = rssm
        self.packed = Packed([*recurrence(rssm), *parts_of(rssm.posterior_head)], torch.float32)

    def refresh(self) -> None:
        """Take over the RSSM's weights."""
        self.packed.refresh()

    def __call__(
        self, latent: Latent, action: Tensor, embedding: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[Latent, Latent, Normal]:
        """`RSSM.scan`; gradients reach the embeddings and the weights, not `latent`."""
        self.refresh()
        parameters = [x for part in self.packed.parts for x in part.parameters]
        inputs = *latent, action, embedding, is_first, noise
        deter, stoch, mean, std = (
            x.transpose(0, 1) for x in _Filter.apply(self, *inputs, *parameters)
        )
        return Latent(deter[:, -1], stoch[:, -1]), Latent(deter, stoch), Normal(mean, std)


class Call:
    """One pass over a batch of sequences: its arguments, and the memory that they point to."""

    def __init__(self, of: Filter, latent: Latent, action: Tensor, embedding: Tensor,
                 is_first: Tensor, noise: Tensor):  # fmt: skip
        self.of, rssm, layers = of, of.rssm, of.packed.array
        rows, steps = self.rows, self.steps = is_first.shape
        self.count, block = steps * rows, rows_per_block(rows)
        self.blocks = -(-rows // block)
        time_major = (fp32(x.transpose(0, 1)) for x in (action, embedding, ~is_first, noise))
        self.read = [*time_major, *map(fp32, latent)]
        self.inputs = [torch.empty(self.count, layer.in_padded) for layer in layers]
        kept = [self._room(layers[i].out_padded + 1) for i in (ENTER, FIRST)]
        self.kept = kept
        hidden = [
            Hidden(pointer(x), pointer(x) + 4 * self.count * layers[i].out_padded)
            for x, i in zip(kept, (ENTER, FIRST))
        ]
        self.between = [self._room(4 * padded(rssm.deter)), self._room(rssm.stoch)]
        self.arguments = Arguments(
            *(rows, steps, block),
            *(rssm.deter, rssm.stoch, action.shape[-1], embedding.shape[-1]),
            *(of.packed.address(i) for i in (ENTER, INPUT, HIDDEN, FIRST)),
            rssm.min_std,
            *map(pointer, self.read),
            *(None,) * 4,
            *map(pointer, self.inputs),
            *hidden,
            *map(pointer, self.between),
        )

    def _room(self, width: int) -> Tensor:
        return torch.empty(self.count * width)

    def forward(self) -> tuple[Tensor, ...]:
        """Latents and posteriors. They are not kept here: autograd would keep all of it alive."""
        rssm = self.of.rssm
        widths = {"deters": rssm.deter} | dict.fromkeys(("stochs", "means", "stds"), rssm.stoch)
        filtered = {name: torch.empty(self.steps, self.rows, x) for name, x in widths.items()}
        for name, tensor in filtered.items():
            setattr(self.arguments, name, pointer(tensor))
        library().filter_forward(byref(self.arguments))
        return tuple(filtered.values())

    def backward(self, given: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the embeddings and of the weights."""
        packed = self.of.packed
        read = [fp32(x) for x in given]
        d_embeddings = torch.empty_like(self.read[1])
        gradients = [
            Gradient(part, layer, self.count, self.blocks, torch.float32)
            for part, layer in zip(packed.parts, packed.array)
        ]
        products = [x.products for x in gradients]
        names = ("d_deters", "d_stochs", "d_means", "d_stds", "d_embeddings", "d_enter")
        names += ("d_gru_input", "d_gru_hidden", "d_posterior_hidden", "d_posterior")
        for name, tensor in zip(names, (*read, d_embeddings, *products), strict=True):
            setattr(self.arguments, name, pointer(tensor))
        self.arguments.d_enter_affine = gradients[ENTER].affine
        self.arguments.d_posterior_affine = gradients[FIRST].affine
        library().filter_backward(byref(self.arguments))
        found = zip(gradients, self.inputs)
        weights = [x for gradient, inputs in found for x in gradient.of_parameters(inputs)]
        return d_embeddings, weights


class _Filter(torch.autograd.Function):
    """Filtered states and posteriors, time-major, differentiable in embeddings and weights."""

    @staticmethod
    def forward(ctx: Any, of: Filter, deter: Tensor, stoch: Tensor, action: Tensor,
                embedding: Tensor, is_first: Tensor, noise: Tensor, *weights: Tensor) -> Any:  # fmt: skip
        ctx.call = Call(of, Latent(deter, stoch), action, embedding, is_first, noise)
        return ctx.call.forward()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        d_embeddings, weights = ctx.call.backward(list(given))
        return None, None, None, None, d_embeddings.transpose(0, 1), None, None, *weights
