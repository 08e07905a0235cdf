"""How networks look to the kernels: addresses of PyTorch's weights, and packed copies of them."""

from collections.abc import Sequence
from ctypes import Structure, addressof, c_int64, c_void_p, sizeof
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.nets import MLP
from lsp.native.build import library

MAX_LAYERS = 16  # of one network
BLOCK = 64  # rows that go through all layers together, at most


def padded(width: int) -> int:
    """Widths in the kernels are multiples of 32."""
    return -(-width // 32) * 32


class Layer(Structure):
    """Layer in layers.h."""

    _fields_ = (
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("groups", c_int64),
        ("source", c_void_p),
        ("bias", c_void_p),
        ("gain", c_void_p),
        ("shift", c_void_p),
        ("weight", c_void_p),
        ("transposed", c_void_p),
    )

    @property
    def in_padded(self) -> int:
        return padded(self.inputs)

    @property
    def out_padded(self) -> int:
        return self.groups * padded(self.outputs // self.groups)


class Affine(Structure):
    """Affine in layers.h: where gradients go."""

    _fields_ = (("gain", c_void_p), ("shift", c_void_p))


class Hidden(Structure):
    """Hidden in layers.h: what the backward pass needs of a hidden layer."""

    _fields_ = (("normal", c_void_p), ("inverse_std", c_void_p))


class Part:
    """What one Layer stands for: weights `[outputs, inputs]`, bias, and LayerNorm's two vectors
    where there is one. A GRU's three gates are `groups`."""

    def __init__(
        self, weight: Tensor, bias: Tensor, norm: nn.LayerNorm | None = None, groups: int = 1
    ):
        self.weight, self.bias, self.norm, self.groups = weight, bias, norm, groups

    @property
    def parameters(self) -> list[Tensor]:
        """In the order in which gradients come back."""
        return [self.weight, self.bias] + ([self.norm.weight, self.norm.bias] if self.norm else [])


def parts_of(mlp: MLP) -> list[Part]:
    """The layers of an MLP, each with the LayerNorm behind it."""
    modules = list(mlp)
    parts = []
    for module, behind in zip(modules, [*modules[1:], None]):
        if isinstance(module, nn.Linear):
            norm = behind if isinstance(behind, nn.LayerNorm) else None
            parts.append(Part(module.weight, module.bias, norm))
    return parts


class Packed:
    """Layers as an array for the kernels, their weights packed in `dtype`; `refresh` after they
    have changed."""

    def __init__(self, parts: Sequence[Part], dtype: torch.dtype):
        self.parts, self.dtype = list(parts), dtype
        self.array: Any = (Layer * len(self.parts))()
        self._memory: list[Tensor] = []
        for layer, part in zip(self.array, self.parts):
            layer.outputs, layer.inputs = part.weight.shape
            layer.groups = part.groups
            # Zeros stay where nothing is packed.
            size = layer.in_padded * layer.out_padded
            for field in ("weight", "transposed"):
                self._memory.append(torch.zeros(size, dtype=dtype))
                setattr(layer, field, self._memory[-1].data_ptr())
        self._pack = kernel("pack", dtype)

    def refresh(self) -> None:
        """Take over PyTorch's weights, wherever they are now."""
        for layer, part in zip(self.array, self.parts):
            layer.source, layer.bias = part.weight.data_ptr(), part.bias.data_ptr()
            if part.norm is not None:
                layer.gain, layer.shift = part.norm.weight.data_ptr(), part.norm.bias.data_ptr()
        self._pack(self.array, c_int64(len(self.parts)))

    def address(self, index: int) -> int:
        """Of the layer at `index`, for a kernel's arguments."""
        return addressof(self.array) + index * sizeof(Layer)


class Gradient:
    """What a kernel leaves of the gradient of one part, for `rows` rows in `blocks` blocks."""

    def __init__(self, part: Part, layer: Layer, rows: int, blocks: int, dtype: torch.dtype):
        self.part, self.affine = part, Affine()
        self.products = torch.empty(rows, layer.out_padded, dtype=dtype)
        if part.norm is not None:
            self._affine = torch.zeros(2, blocks, layer.out_padded)
            self.affine = Affine(*(x.data_ptr() for x in self._affine))

    def of_parameters(self, read: Float[Tensor, "rows in_padded"]) -> list[Tensor]:
        """Those of `part.parameters`, from what the layer had read."""
        inputs, width = self.part.weight.shape[1], self.part.weight.shape[0] // self.part.groups
        weight = (self.products.T @ read).unflatten(0, (self.part.groups, -1))
        bias = self.products.sum(0, dtype=torch.float32).unflatten(0, (self.part.groups, -1))
        found = [weight[:, :width, :inputs].flatten(0, 1), bias[:, :width].flatten()]
        if self.part.norm is not None:
            found += self._affine.sum(1)[:, :width]
        return found


def kernel(name: str, dtype: torch.dtype) -> Any:
    """A function of the library, of those that there is one of for each precision."""
    return library()[f"{name}_{str(dtype).removeprefix('torch.')}"]


def rows_per_block(rows: int) -> int:
    """As many as leave every thread some, but few enough for a cache."""
    return max(1, min(BLOCK, -(-rows // torch.get_num_threads())))


def pointer(tensor: Tensor) -> int:
    """Of a contiguous tensor; the caller keeps it alive."""
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def fp32(tensor: Tensor) -> Tensor:
    """As the kernels read everything that is no weight or feature."""
    return tensor.detach().to(torch.float32).contiguous()
