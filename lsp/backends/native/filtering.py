"""`RSSM.scan` by kernels."""

from ctypes import Structure, byref, c_double, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from lsp.backends.native.imagination import recurrence
from lsp.backends.native.layers import (
    MAX_LAYERS,
    Affine,
    Gradient,
    Gradients,
    Mlp,
    Packed,
    aligned,
    fp32,
    gradients_of,
    kernel,
    parts_of,
    pointer,
    pointers,
    room,
    rows_per_block,
)
from lsp.models.distributions import Normal
from lsp.models.world_model import RSSM, Latent

POSTERIOR = 3  # layers before the posterior's: the one that enters, and the GRU's two


class Arguments(Structure):
    """Filter in filter.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "steps", "block")),
        *((name, c_int64) for name in ("deter", "stoch", "action", "embedding")),
        *((name, c_void_p) for name in ("enter", "gru_input", "gru_hidden")),
        ("posterior", Mlp),
        ("min_std", c_double),
        *((name, c_void_p) for name in ("actions", "embeddings", "keep", "noise")),
        *((name, c_void_p) for name in ("start_deter", "start_stoch")),
        *((name, c_void_p) for name in ("deters", "stochs", "means", "stds")),
        *((name, c_void_p) for name in ("enter_in", "entered", "recalled")),
        ("posterior_in", c_void_p * MAX_LAYERS),
        ("memory", c_void_p),
        *((name, c_void_p) for name in ("d_deters", "d_stochs", "d_means", "d_stds")),
        *((name, c_void_p) for name in ("d_embeddings", "d_enter")),
        *((name, c_void_p) for name in ("d_gru_input", "d_gru_hidden")),
        ("d_enter_affine", Affine),
        ("d_posterior", Gradients),
    )


class Filter:
    """Filters sequences with `rssm`, and learns it, with weights in `dtype`."""

    def __init__(self, rssm: RSSM, dtype: torch.dtype):
        self.rssm, self.dtype = rssm, dtype
        self.packed = Packed([*recurrence(rssm), *parts_of(rssm.posterior_head)], dtype)
        self.run, self.run_backward = kernel("filter", dtype), kernel("filter_backward", dtype)
        self.bytes = kernel("filter_bytes", dtype)
        self.bytes.restype = c_int64

    def __call__(
        self, latent: Latent, action: Tensor, embedding: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[Latent, Latent, Normal]:
        """`RSSM.scan`; gradients reach the embeddings and the weights, not `latent`."""
        self.packed.refresh()
        parameters = [x for part in self.packed.parts for x in part.parameters]
        inputs = (*latent, action, embedding, is_first, noise, *parameters)
        states = _Filter.apply(self, *inputs)  # type: ignore[no-untyped-call]
        deter, stoch, mean, std = (x.transpose(0, 1) for x in states)
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
        # What every layer reads: the gradients of the weights need it.
        self.inputs = [torch.empty(self.count, layer.in_padded, dtype=of.dtype) for layer in layers]
        self.arguments = Arguments(
            *(rows, steps, block),
            *(rssm.deter, rssm.stoch, action.shape[-1], embedding.shape[-1]),
            *(of.packed.address(i) for i in range(POSTERIOR)),
            of.packed.mlp(POSTERIOR),
            rssm.min_std,
            *map(pointer, self.read),
            *(None,) * 4,
            *map(pointer, self.inputs[:POSTERIOR]),
            pointers(self.inputs[POSTERIOR:]),
        )
        self.memory = room(of.bytes(byref(self.arguments)))
        self.arguments.memory = aligned(self.memory)

    def forward(self) -> tuple[Tensor, ...]:
        """Latents and posteriors. They are not kept here: autograd would keep all of it alive."""
        rssm = self.of.rssm
        widths = {"deters": rssm.deter} | dict.fromkeys(("stochs", "means", "stds"), rssm.stoch)
        filtered = {name: torch.empty(self.steps, self.rows, x) for name, x in widths.items()}
        for name, tensor in filtered.items():
            setattr(self.arguments, name, pointer(tensor))
        self.of.run(byref(self.arguments))
        return tuple(filtered.values())

    def backward(self, given: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the embeddings and of the weights."""
        packed, read = self.of.packed, [fp32(x) for x in given]
        d_embeddings = torch.empty_like(self.read[1])
        found = [
            Gradient(part, layer, self.count, self.blocks, self.of.dtype)
            for part, layer in zip(packed.parts, packed.array)
        ]
        names = ["d_deters", "d_stochs", "d_means", "d_stds", "d_embeddings"]
        names += ["d_enter", "d_gru_input", "d_gru_hidden"]
        products = (one.products for one in found[:POSTERIOR])
        for name, tensor in zip(names, (*read, d_embeddings, *products), strict=True):
            setattr(self.arguments, name, pointer(tensor))
        self.arguments.d_enter_affine = found[0].affine
        self.arguments.d_posterior = gradients_of(found[POSTERIOR:])
        self.of.run_backward(byref(self.arguments))
        each = (one.of_parameters(read) for one, read in zip(found, self.inputs))
        return d_embeddings, [gradient for several in each for gradient in several]


class _Filter(torch.autograd.Function):
    """Filtered states and posteriors, time-major, differentiable in embeddings and weights."""

    @staticmethod
    def forward(ctx: Any, of: Filter, *inputs: Tensor) -> Any:
        deter, stoch, action, embedding, is_first, noise, *_weights = inputs
        ctx.call = Call(of, Latent(deter, stoch), action, embedding, is_first, noise)
        return ctx.call.forward()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        d_embeddings, weights = ctx.call.backward(list(given))
        return None, None, None, None, d_embeddings.transpose(0, 1), None, None, *weights
