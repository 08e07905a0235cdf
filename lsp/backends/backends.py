"""Faster copies of the networks, in bf16 where that is fast.

On a CPU by the kernels of `native`, on a GPU by torch.compile and CUDA graphs. The eager fp32 path
in `networks.py` is the reference; nothing else changes.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.backends.cuda_graphs import Record, Recording, as_it_is
from lsp.backends.hardware import compiler
from lsp.backends.native.build import CannotBuild
from lsp.backends.native.filtering import Filter
from lsp.backends.native.heads import Heads
from lsp.backends.native.imagination import Imagination
from lsp.backends.native.judging import Judging
from lsp.backends.native.likelihood import Likelihood
from lsp.backends.native.mlp import NativeMLP
from lsp.backends.precision import precision
from lsp.config import RuntimeConfig
from lsp.errors import warn
from lsp.models.anchor import Anchor
from lsp.models.distributions import Normal
from lsp.models.imagination import Predict, RolloutNoise, Transition
from lsp.models.layers import MLP
from lsp.models.networks import Networks
from lsp.models.world_model import Latent, Scan, WorldModel

WITHOUT_KERNELS = "no kernels here, updates and planning take several times as long"
STEPS_PER_CALL = 4  # of a compiled scan: fewer spend their time between calls, more compile long


class EagerBackend:
    """What updates and agents compute with; here as PyTorch does it, eagerly.

    `frozen_copy` is a copy of the networks with its weights in `dtype`, for planning and behaviour
    learning. Its world model is frozen: behaviour learning differentiates through it, never with
    respect to it. `model` is the world model that learns and filters, and `scan` its filter;
    `anchor_scan` is that of a transfer's anchor.
    `record` makes functions of tensors faster.
    """

    def __init__(
        self,
        networks: Networks,
        dtype: torch.dtype = torch.float32,
        record: Record = as_it_is,
    ):
        self.networks, self.record = networks, record
        self.frozen_copy = frozen_copy(networks, dtype)
        self.model = networks.world_model
        self.scan: Scan = self.model.rssm.scan
        anchor = self.frozen_copy.anchor
        self.anchor_scan: Scan | None = anchor.rssm.scan if isinstance(anchor, Anchor) else None

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the networks' weights; in full precision the copy shares their memory."""
        if self.frozen_copy.dtype != self.networks.dtype:
            mine: list[Tensor] = list(self.frozen_copy.parameters())
            theirs: list[Tensor] = list(self.networks.parameters())
            torch._foreach_copy_(mine, theirs)


class NativeBackend(EagerBackend):
    """By kernels, all in `dtype`: rollouts, the filter, and every MLP of `copy` and `model`.

    They read the networks' own weights, whatever the precision: the copy's parameters only stand
    for them where a gradient is asked for. Raises CannotBuild where there are no kernels.
    """

    def __init__(self, networks: Networks, dtype: torch.dtype = torch.float32):
        super().__init__(networks, dtype)
        copy = self.frozen_copy
        learned = [] if networks.config.plans_actions else list(copy.policy.parameters())
        copy.imagine = imagination = Imagination(networks, learned, dtype)
        copy.log_likelihood = Likelihood(imagination)
        copy.predict_heads = heads = Heads(networks, dtype)
        copy.judge_at_once = Judging(imagination, heads)
        if networks.config.refines_actions:
            given = Imagination(networks, [], dtype, of_actions=True)
            copy.judge_actions_at_once = Judging(given, heads)
        self.model = _same_weights(networks.world_model)
        self.scan = Filter(self.model.rssm, dtype)
        if isinstance(networks.anchor, Anchor):
            self.anchor_scan = Filter(networks.anchor.rssm, dtype)
        for mine, theirs in zip(_mlps(copy), _mlps(networks), strict=True):
            mine.faster = NativeMLP(theirs, dtype, learned=mine)
        for mlp in _mlps(self.model):
            mlp.faster = NativeMLP(mlp, dtype)

    def refresh(self) -> None:
        """Nothing to do: kernels see at every call whether weights have changed."""


class CompiledBackend(EagerBackend):
    """By torch.compile: one imagination step, all heads at once, a few steps of the filter.

    `wrap` compiles; another function of functions leaves only the division into pieces.
    """

    def __init__(
        self,
        networks: Networks,
        dtype: torch.dtype = torch.float32,
        record: Record = as_it_is,
        wrap: Callable[[Any], Any] | None = None,
    ):
        super().__init__(networks, dtype, record)
        wrap = wrap or partial(torch.compile, dynamic=False, fullgraph=True)
        self._scan: Scan = wrap(self.scan)
        self.scan = self._scan_in_pieces
        self._transition: Transition = wrap(self.frozen_copy.transition)
        self.frozen_copy.transition = self.transition
        self._predict: Predict = wrap(self.frozen_copy.predict)
        self.frozen_copy.predict = self.predict
        self.frozen_copy.predict_heads = wrap(self.frozen_copy.predict_heads)

    def _scan_in_pieces(
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

    def transition(
        self, latent: Latent, skill: Float[Tensor, "batch skill"], noise: RolloutNoise
    ) -> tuple[Latent, Float[Tensor, "batch action"]]:
        """`Networks.transition` of the copy."""
        return self._transition(_with_gradient(latent), skill, noise)

    def predict(
        self, latent: Latent, skill: Float[Tensor, "batch skill"], noise: Tensor
    ) -> tuple[Tensor, Normal]:
        """`Networks.predict` of the copy."""
        return self._predict(_with_gradient(latent), skill, noise)


def frozen_copy(networks: Networks, dtype: torch.dtype) -> Networks:
    """A copy with its weights in `dtype`; where that is their own, in the same memory.

    A transfer's anchor filters observations, as the model that learns does: in full precision.
    """
    copy = deepcopy(networks)
    copy.world_model.requires_grad_(False)
    exact = set(copy.anchor.parameters()) if isinstance(copy.anchor, Anchor) else set()
    for weight, original in zip(copy.parameters(), networks.parameters(), strict=True):
        weight.data = original.data if weight in exact else original.data.to(dtype)
    for buffer, same in zip(copy.buffers(), networks.buffers(), strict=True):
        buffer.data = same.data
    return copy


def _same_weights(model: WorldModel) -> WorldModel:
    """A copy whose parameters are those of `model` themselves: it may compute in another way."""
    return deepcopy(model, {id(x): x for x in model.parameters()})


def _mlps(module: nn.Module) -> list[MLP]:
    return [part for part in module.modules() if isinstance(part, MLP)]


def _with_gradient(latent: Latent) -> Latent:
    """So that the first call of a rollout, from detached states, runs the graph of the others."""
    if not torch.is_grad_enabled():
        return latent
    return Latent(*(x if x.requires_grad else x.detach().requires_grad_() for x in latent))


def learning_backend(networks: Networks, runtime: RuntimeConfig) -> EagerBackend:
    """For updates: the fastest that this machine and the user's settings allow."""
    dtype = precision(runtime)
    if networks.device.type == "cuda":
        return _gpu_backend(networks, dtype, runtime)
    if not runtime.compile:
        return EagerBackend(networks, dtype)
    try:
        return NativeBackend(networks, dtype)
    except CannotBuild as reason:
        _say_once(f"{WITHOUT_KERNELS}: {reason}")
        return CompiledBackend(networks, dtype) if compiler() else EagerBackend(networks, dtype)


def acting_backend(networks: Networks, runtime: RuntimeConfig) -> EagerBackend:
    """For agents, in full precision: a plan for one state costs little."""
    networks = networks.for_acting()
    if networks.device.type == "cuda":
        return EagerBackend(networks, record=_recorder(runtime))
    if runtime.compile:
        try:
            return NativeBackend(networks)
        except CannotBuild as reason:
            _say_once(f"{WITHOUT_KERNELS}: {reason}")
    return EagerBackend(networks)


def _gpu_backend(networks: Networks, dtype: torch.dtype, runtime: RuntimeConfig) -> EagerBackend:
    if runtime.compile and compiler() is None:  # which Triton needs to start its kernels
        _say_once("nothing is compiled, updates take half as long again: there is no C++ compiler")
    kind = CompiledBackend if runtime.compile and compiler() else EagerBackend
    return kind(networks, dtype, _recorder(runtime))


def _recorder(runtime: RuntimeConfig) -> Record:
    return Recording if runtime.cuda_graphs else as_it_is


@cache
def _say_once(message: str) -> None:
    warn(message)
