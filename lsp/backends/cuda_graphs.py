"""CUDA graphs: an update is thousands of small kernels, and one call starts them all."""

from collections import Counter
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Function = Callable[[Tensors], Tensors]
Record = Callable[[Function, torch.Generator], Function]
"""Makes a faster function of one that draws from no other generator; here are two ways to."""

WARM_UP = 3
"""Calls before one is recorded: they compile, choose algorithms and make optimisers' states."""


def as_it_is(function: Function, generator: torch.Generator) -> Function:
    """Nothing is recorded."""
    return function


class Recording:
    """`function`, recorded in its fourth call with inputs of some shapes and replayed from then on.

    Everything else that it reads or changes must stay where it is in memory (weights, optimiser
    states), and its Python code must not depend on data. Its draws from `generator` are those that
    it would make without a graph. What it returns is copied, because the next call writes there.
    """

    def __init__(self, function: Function, generator: torch.Generator):
        self._function, self._generator = function, generator
        self._calls = Counter[Hashable]()
        self._graphs: dict[Hashable, _Graph] = {}

    def __call__(self, inputs: Tensors) -> Tensors:
        kind = tuple((name, x.shape, x.dtype) for name, x in inputs.items())
        self._calls[kind] += 1
        if self._calls[kind] <= WARM_UP:
            return self._beside(inputs)
        if kind not in self._graphs:
            self._graphs[kind] = _Graph(self._function, self._generator, inputs)
        return self._graphs[kind](inputs)

    def _beside(self, inputs: Tensors) -> Tensors:
        """On another stream than the default one, as a recording will be."""
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            outputs = self._function(inputs)
        here.wait_stream(beside)
        return outputs


class _Graph:
    """One recording, with the memory that its inputs and outputs have in every replay."""

    def __init__(self, function: Function, generator: torch.Generator, inputs: Tensors):
        self.inputs = {name: x.clone() for name, x in inputs.items()}
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.outputs = function(self.inputs)

    def __call__(self, inputs: Tensors) -> Tensors:
        for name, x in self.inputs.items():
            x.copy_(inputs[name])
        self.graph.replay()
        return {name: x.clone() for name, x in self.outputs.items()}
