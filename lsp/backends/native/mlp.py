"""`MLP.forward` by kernels."""

from ctypes import Structure, byref, c_int64, c_void_p
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.backends.native.layers import (
    MAX_LAYERS,
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
from lsp.models.layers import MLP


class Arguments(Structure):
    """Pass in mlp.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "block")),
        ("mlp", Mlp),
        *((name, c_void_p) for name in ("input", "output", "memory")),
        ("inputs", c_void_p * MAX_LAYERS),
        *((name, c_void_p) for name in ("slope", "d_output", "d_input")),
        ("learns", c_int64),
        ("gradients", Gradients),
    )


class NativeMLP:
    """What `mlp` computes, with weights in `dtype`; the last layer's sums are fp32 in both.

    `learned` are the parameters that gradients are for, where they are not those of `mlp`: their
    values are not read. Several losses may then share a pass, while a world model has one.
    """

    def __init__(self, mlp: MLP, dtype: torch.dtype, learned: MLP | None = None):
        self.packed, self.dtype = Packed(parts_of(mlp), dtype), dtype
        self.learned = list((learned or mlp).parameters())
        self.is_shared = learned is not None
        self.outputs = self.packed.array[len(self.packed.parts) - 1].outputs
        self.run, self.run_backward = kernel("mlp", dtype), kernel("mlp_backward", dtype)
        self.bytes = kernel("mlp_bytes", dtype)
        self.bytes.restype = c_int64

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        self.packed.refresh()
        flat = x.flatten(0, -2)
        # Without gradients autograd would still say that they are needed.
        if torch.is_grad_enabled():
            y: Tensor = _Pass.apply(self, flat, *self.learned)  # type: ignore[no-untyped-call]
        else:
            y = Call(self, flat, False).forward()
        return y.reshape(*x.shape[:-1], -1)


class Call:
    """One pass: its arguments, and the memory that they point to, if `keep`."""

    def __init__(self, of: NativeMLP, x: Tensor, keep: bool):
        self.of, self.rows = of, x.shape[0]
        self.read = x.detach().to(of.dtype).contiguous()
        block = rows_per_block(self.rows)
        self.blocks = -(-self.rows // block)
        self.arguments = Arguments(self.rows, block, of.packed.mlp(), pointer(self.read))
        if keep:
            widths = [layer.in_padded for layer in of.packed.array]
            self.inputs = [torch.empty(self.rows, width, dtype=of.dtype) for width in widths]
            self.memory = room(of.bytes(byref(self.arguments)))
            self.arguments.inputs = pointers(self.inputs)
            self.arguments.memory = aligned(self.memory)

    def forward(self) -> Tensor:
        output = torch.empty(self.rows, self.of.outputs)
        self.arguments.output = pointer(output)
        self.of.run(byref(self.arguments))
        return output

    def forward_with_slope(self) -> tuple[Tensor, Tensor]:
        """The only output, and its gradient with respect to the input: nothing else is kept."""
        slope = torch.empty_like(self.read)
        self.arguments.slope = pointer(slope)
        return self.forward(), slope

    def backward(
        self, d_output: Tensor, of_input: bool, of_weights: bool
    ) -> tuple[Tensor | None, list[Tensor] | None]:
        """Gradients of the input and of the weights, as far as they are wanted."""
        packed, given = self.of.packed, fp32(d_output)
        self.arguments.d_output = pointer(given)
        d_input = torch.empty_like(self.read) if of_input else None
        self.arguments.d_input = None if d_input is None else pointer(d_input)
        self.arguments.learns = of_weights
        if not of_weights:
            self.of.run_backward(byref(self.arguments))
            return d_input, None
        found = [
            Gradient(part, layer, self.rows, self.blocks, self.of.dtype)
            for part, layer in zip(packed.parts, packed.array)
        ]
        self.arguments.gradients = gradients_of(found)
        self.of.run_backward(byref(self.arguments))
        each = (one.of_parameters(read) for one, read in zip(found, self.inputs))
        return d_input, [gradient for several in each for gradient in several]


def what_is_wanted(of_input: Any, of_weight: Any, *_others: Any) -> tuple[bool, bool]:
    """Whether this backward pass goes on to the input, and to the weights, by their nodes.

    `needs_input_grad` says what could be asked for. Two losses may descend through one pass, each
    for other weights.
    """
    if not torch._C._will_engine_execute_node(of_input):
        return False, True
    try:
        return True, torch._C._will_engine_execute_node(of_weight)
    except RuntimeError:  # which it raises for a leaf whose gradient is asked for
        return True, True


class _Pass(torch.autograd.Function):
    """An MLP's outputs, differentiable in its input and its weights."""

    @staticmethod
    def forward(ctx: Any, of: NativeMLP, x: Tensor, *learned: Tensor) -> Tensor:
        keep = any(ctx.needs_input_grad)
        call = Call(of, x, keep)
        if keep:
            ctx.call, ctx.dtype = call, x.dtype
        return call.forward()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        _, of_input, *of_weights = ctx.needs_input_grad
        wanted = of_input, any(of_weights)
        if all(wanted) and ctx.call.of.is_shared:
            wanted = what_is_wanted(*(node for node, _ in ctx.next_functions))
        d_input, found = ctx.call.backward(given[0], *wanted)
        weights = [None] * len(of_weights)
        if found is not None:
            weights = [x.to(y.dtype) for x, y in zip(found, ctx.call.of.learned, strict=True)]
        return None, None if d_input is None else d_input.to(ctx.dtype), *weights
