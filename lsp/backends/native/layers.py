"""How networks look to the kernels: addresses of PyTorch's weights, and packed copies of them."""

from collections.abc import Sequence
from ctypes import Structure, addressof, byref, c_bool, c_int64, c_void_p, sizeof
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.backends.native.build import CannotBuild, library

MAX_LAYERS = 16  # of one network
BLOCK = 256  # rows that go through all layers together, at most
LINE = 64  # bytes of a line of a cache, by which memory is aligned


def padded(width: int, dtype: torch.dtype) -> int:
    """Rows in the kernels are whole lines of a cache."""
    line = LINE // dtype.itemsize
    return -(-width // line) * line


class Layer(Structure):
    """Layer in layers.h."""

    _fields_ = (
        *((name, c_int64) for name in ("inputs", "outputs", "groups", "in_padded", "out_padded")),
        *((name, c_void_p) for name in ("source_weight", "source_bias")),
        *((name, c_void_p) for name in ("source_gain", "source_shift")),
        *((name, c_void_p) for name in ("weight", "transposed", "bias", "gain", "shift")),
    )


class Mlp(Structure):
    """Mlp in mlp.h."""

    _fields_ = (("layers", c_void_p), ("count", c_int64))


class Affine(Structure):
    """Affine in layers.h: where gradients of a LayerNorm go."""

    _fields_ = (("gain", c_void_p), ("shift", c_void_p))


class Gradients(Structure):
    """Gradients in mlp.h."""

    _fields_ = (("products", c_void_p * MAX_LAYERS), ("affine", Affine * MAX_LAYERS))


class Part:
    """What one Layer stands for: weights `[outputs, inputs]`, bias, and LayerNorm's two vectors
    where there is one. A GRU's three gates are `groups`."""

    def __init__(
        self, weight: Tensor, bias: Tensor, norm: nn.LayerNorm | None = None, groups: int = 1
    ):
        affine = [] if norm is None else [norm.weight, norm.bias]
        self.parameters: list[Tensor] = [weight, bias, *affine]
        self.has_norm, self.groups = norm is not None, groups

    @property
    def state(self) -> list[tuple[int, int]]:
        """Changes whenever a weight is written to or moved."""
        return [(x.data_ptr(), x._version) for x in self.parameters]


def parts_of(mlp: nn.Sequential) -> list[Part]:
    """The layers of an MLP, each with the LayerNorm behind it. Raises CannotBuild for too many."""
    modules = list(mlp)
    parts = []
    for module, behind in zip(modules, [*modules[1:], None]):
        if isinstance(module, nn.Linear):
            norm = behind if isinstance(behind, nn.LayerNorm) else None
            parts.append(Part(module.weight, module.bias, norm))
    if len(parts) > MAX_LAYERS:
        raise CannotBuild(f"kernels have room for {MAX_LAYERS} layers, not {len(parts)}")
    return parts


class Packed:
    """Layers as an array for the kernels, their weights packed in `dtype`."""

    def __init__(self, parts: Sequence[Part], dtype: torch.dtype):
        self.parts, self.dtype = list(parts), dtype
        self.array: Any = (Layer * len(self.parts))()
        self._states: list[Any] = [None] * len(self.parts)
        self._memory: list[Tensor] = []
        self._pack = kernel("pack", dtype)
        for layer, part in zip(self.array, self.parts):
            layer.outputs, layer.inputs = part.parameters[0].shape
            layer.groups = part.groups
            layer.in_padded = padded(layer.inputs, dtype)
            layer.out_padded = part.groups * padded(layer.outputs // part.groups, dtype)
            # What is not packed stays zero.
            size = layer.in_padded * layer.out_padded
            layer.weight, layer.transposed = self._zeros(size, dtype), self._zeros(size, dtype)
            for name in ("bias", "gain", "shift"):
                setattr(layer, name, self._zeros(layer.out_padded, torch.float32))

    def _zeros(self, size: int, dtype: torch.dtype) -> int:
        self._memory.append(torch.zeros(size, dtype=dtype))
        return self._memory[-1].data_ptr()

    def refresh(self) -> None:
        """Take over those of PyTorch's weights that have changed."""
        names = ("source_weight", "source_bias", "source_gain", "source_shift")
        for i, (layer, part) in enumerate(zip(self.array, self.parts)):
            state = part.state
            if state == self._states[i]:
                continue
            for name, x in zip(names, part.parameters):
                assert x.dtype == torch.float32
                setattr(layer, name, pointer(x))
            self._pack(byref(layer))
            self._states[i] = state

    def address(self, index: int) -> int:
        """Of the layer at `index`, for a kernel's arguments."""
        return addressof(self.array) + index * sizeof(Layer)

    def mlp(self, first: int = 0) -> Mlp:
        """Of the layers from `first` on."""
        return Mlp(self.address(first), len(self.parts) - first)


class Gradient:
    """What a kernel leaves of the gradient of one part, for `rows` rows in `blocks` blocks."""

    def __init__(self, part: Part, layer: Layer, rows: int, blocks: int, dtype: torch.dtype):
        self.part, self.layer, self.affine = part, layer, Affine()
        self._weight_gradient = kernel("weight_gradient", dtype)
        self.products = torch.empty(rows, layer.out_padded, dtype=dtype)
        if part.has_norm:
            self._affine = torch.zeros(2, blocks, layer.out_padded)
            self.affine = Affine(*(x.data_ptr() for x in self._affine))

    def of_parameters(self, read: Float[Tensor, "rows in_padded"]) -> list[Tensor]:
        """Those of `part.parameters`, from what the layer had read."""
        found = [torch.empty(x.shape) for x in self.part.parameters[:2]]
        addresses = map(pointer, (read, self.products, *found))
        self._weight_gradient(
            byref(self.layer), c_int64(len(read)), *(c_void_p(x) for x in addresses)
        )
        if self.part.has_norm:
            outputs = len(found[1])
            # Contiguous, as PyTorch's fused optimisers take for granted.
            found += [x[:outputs] for x in self._affine.sum(1)]
        return found


def gradients_of(found: Sequence[Gradient]) -> Gradients:
    """For a kernel's arguments; one for each layer of an MLP."""
    arguments = Gradients()
    for i, gradient in enumerate(found):
        arguments.products[i] = pointer(gradient.products)
        arguments.affine[i] = gradient.affine
    return arguments


def kernel(name: str, dtype: torch.dtype) -> Any:
    """A function of the library, of those that there is one of for each precision.

    Raises CannotBuild where this machine cannot run it.
    """
    if not _can_multiply(dtype):
        raise CannotBuild("PyTorch has no small matrix products for this processor")
    return _function(name, dtype)


def _function(name: str, dtype: torch.dtype) -> Any:
    return library()[f"{name}_{str(dtype).removeprefix('torch.')}"]


@cache
def _can_multiply(dtype: torch.dtype) -> bool:
    probe = _function("can_multiply", dtype)
    probe.restype = c_bool
    return bool(probe())


def rows_per_block(rows: int) -> int:
    """Few enough for a cache, and all threads get as many blocks."""
    threads = torch.get_num_threads()
    blocks = threads * -(-rows // (threads * BLOCK))
    return max(1, min(BLOCK, -(-rows // blocks)))


def room(size: int) -> Tensor:
    """So many bytes of memory, for `aligned`."""
    return torch.empty(size + LINE, dtype=torch.uint8)


def aligned(memory: Tensor) -> int:
    """Where to begin in `memory`."""
    return -(-memory.data_ptr() // LINE) * LINE


def pointer(tensor: Tensor) -> int:
    """Of a contiguous tensor, which the caller keeps alive."""
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def pointers(tensors: Sequence[Tensor]) -> Any:
    """Of one tensor for each layer."""
    return (c_void_p * MAX_LAYERS)(*map(pointer, tensors))


def fp32(tensor: Tensor) -> Tensor:
    """As the kernels read everything that is no weight or feature."""
    return tensor.detach().to(torch.float32).contiguous()
