"""Faster copies of the imagination step and the filter: compiled, and in bf16 for planning.

The eager fp32 path in `networks.py` is the reference; nothing else changes.
"""

import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.config import RuntimeConfig
from lsp.distributions import Normal
from lsp.imagination import RolloutNoise, Transition
from lsp.nets import Module
from lsp.networks import ImaginationStep, Judgement, Networks
from lsp.world_model import Latent, Scan

STEPS_PER_CALL = 4  # of a compiled scan: fewer spend their time between calls, more compile long


def compiler_found() -> bool:
    """torch.compile on a CPU needs a C++ compiler."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


@cache
def bf16_is_fast() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware."""
    return "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo") as lines:
            return next((set(x.split()) for x in lines if x.startswith("flags")), set())
    except OSError:
        return set()


class FastPath:
    """The inner loops of an update, as fast as the machine allows.

    `scan` and `imagine` carry gradients and keep full precision. `plan` and `judge` serve the
    planner, which needs none, so they run in `dtype` on a copy of the weights, which `refresh`
    brings up to date once an update.
    """

    def __init__(self, networks: Networks, compiled: bool, dtype: torch.dtype):
        self.source = nn.ModuleList([networks.transition, networks.heads])
        self.dtype = dtype
        self.copy = deepcopy(self.source).to(dtype).requires_grad_(False)
        wrap = _compiled if compiled else _as_it_is
        self._scan: Scan = wrap(networks.world_model.rssm.scan)
        self._imagine: Transition = wrap(
            ImaginationStep(networks.policy, frozen_view(networks.world_model.rssm))
        )
        self._plan: Transition = wrap(self.copy[0])
        self._judge: Callable[[Tensor], Judgement] = wrap(self.copy[1])

    @torch.no_grad()
    def refresh(self) -> None:
        torch._foreach_copy_(list(self.copy.parameters()), list(self.source.parameters()))

    def scan(
        self, latent: Latent, action: Tensor, embedding: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[Latent, Latent, Normal]:
        """`RSSM.scan`, a few steps a call: whole sequences would compile for minutes."""
        states, posteriors = [], []
        pieces = (x.split(STEPS_PER_CALL, 1) for x in (action, embedding, is_first, noise))
        for piece in zip(*pieces, strict=True):
            latent, state, posterior = self._scan(_with_gradient(latent), *piece)
            states.append(state)
            posteriors.append(posterior)
        state = Latent(*(torch.cat(parts, 1) for parts in zip(*states, strict=True)))
        normals = (torch.cat(parts, 1) for parts in zip(*posteriors, strict=True))
        return latent, state, Normal(*normals)

    def imagine(
        self, latent: Latent, skill: Float[Tensor, "batch skill"], noise: RolloutNoise
    ) -> tuple[Latent, Float[Tensor, "batch action"]]:
        """One step with gradients."""
        return self._imagine(_with_gradient(latent), skill, noise)

    def plan(
        self, latent: Latent, skill: Float[Tensor, "batch skill"], noise: RolloutNoise
    ) -> tuple[Latent, Float[Tensor, "batch action"]]:
        """One step without gradients, in `dtype`."""
        return self._plan(
            Latent(*(x.to(self.dtype) for x in latent)),
            skill.to(self.dtype),
            RolloutNoise(*(x.to(self.dtype) for x in noise)),
        )

    def judge(self, feature: Float[Tensor, "*batch features"]) -> Judgement:
        """The heads without gradients, in `dtype` but for their last layers."""
        return self._judge(feature.to(self.dtype))


def frozen_view(module: Module) -> Module:
    """The same weights, in the same memory, but without gradients of their own.

    Imagination differentiates through the dynamics, never with respect to its weights; a compiled
    step would compute those gradients too.
    """
    view = deepcopy(module).requires_grad_(False)
    for mine, theirs in zip(view.parameters(), module.parameters(), strict=True):
        mine.data = theirs.data
    return view


def _with_gradient(latent: Latent) -> Latent:
    """So that the first call of a rollout, from detached states, runs the graph of the others."""
    return Latent(*(x if x.requires_grad else x.detach().requires_grad_() for x in latent))


def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=False, fullgraph=True)


def _as_it_is(function: Any) -> Any:
    return function


def fast_path(networks: Networks, runtime: RuntimeConfig) -> FastPath:
    """The fastest path that this machine and the user's settings allow."""
    on_gpu = networks.device.type == "cuda"
    dtype = torch.bfloat16 if runtime.bf16 and (on_gpu or bf16_is_fast()) else torch.float32
    return FastPath(networks, runtime.compile and compiler_found(), dtype)
