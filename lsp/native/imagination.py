"""`Networks.imagine` and `Networks.judge` by kernels."""

from ctypes import Structure, byref, c_double, c_int64, c_void_p
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.imagination import Rollout, RolloutNoise
from lsp.native.layers import (
    MAX_LAYERS,
    Affine,
    Gradient,
    Packed,
    Part,
    fp32,
    kernel,
    parts_of,
    pointer,
    rows_per_block,
)
from lsp.networks import Judgement, Networks
from lsp.world_model import Latent


class Arguments(Structure):
    """Imagination in imagination.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "horizon", "block")),
        *((name, c_int64) for name in ("deter", "stoch", "action", "skill")),
        *((name, c_int64) for name in ("plan_length", "skill_length", "policy_layers")),
        *((name, c_void_p) for name in ("policy", "enter", "gru_input", "gru_hidden", "prior")),
        *((name, c_double) for name in ("raw_init_std", "policy_min_std", "min_std")),
        *((name, c_void_p) for name in ("start_deter", "start_stoch", "plan")),
        *((name, c_void_p) for name in ("action_noise", "latent_noise", "feature", "actions")),
        ("trace", c_void_p),
        ("inputs", c_void_p * MAX_LAYERS),
        ("d_feature", c_void_p),
        ("d_actions", c_void_p),
        ("d_outputs", c_void_p * MAX_LAYERS),
        ("d_affine", Affine * MAX_LAYERS),
    )


class Imagination:
    """Rolls plans out in the world model of `networks`, with weights in `dtype`.

    `learned` are the policy's parameters that gradients are for; their values are not read.
    """

    def __init__(self, networks: Networks, learned: list[Tensor], dtype: torch.dtype):
        self.networks, self.learned, self.dtype = networks, learned, dtype
        rssm, config = networks.world_model.rssm, networks.config
        policy = [] if config.plans_actions else parts_of(networks.policy.net)
        self.policy = Packed(policy, dtype)
        self.model = Packed([*recurrence(rssm), *parts_of(rssm.prior_head)], dtype)
        self._forward = kernel("imagine", dtype)
        self._backward = kernel("imagine_backward", dtype)
        self._trace_bytes = kernel("trace_bytes", dtype)
        self._trace_bytes.restype = c_int64

    def refresh(self) -> None:
        """Take over the networks' weights."""
        self.policy.refresh()
        self.model.refresh()

    def __call__(
        self, start: Latent, plan: Float[Tensor, "batch plan skill"], noise: RolloutNoise
    ) -> Rollout:
        """`Networks.imagine`, in `dtype`; gradients reach the policy alone."""
        return Rollout(*_Imagine.apply(self, *start, plan, *noise, *self.learned))



class Call:
    """One rollout: its arguments, and the memory that they point to."""

    def __init__(self, of: Imagination, start: Latent, plan: Tensor, noise: RolloutNoise):
        networks = of.networks
        config, rssm = networks.config, networks.world_model.rssm
        self.of, (rows, length, skill) = of, plan.shape
        self.horizon, self.rows, actions = noise.action.shape[0], rows, networks.action_dim
        self.block = rows_per_block(rows)
        self.features = rssm.deter + rssm.stoch
        self.actions = torch.empty(self.horizon, rows, actions)
        self._read = [fp32(x) for x in (*start, plan, *noise)]
        policy = None if config.plans_actions else config.policy
        self.arguments = Arguments(
            *(rows, self.horizon, self.block),
            *(rssm.deter, rssm.stoch, actions, skill),
            *(length, config.planner.skill_length, len(of.policy.parts)),
            of.policy.address(0),
            *(of.model.address(i) for i in range(4)),
            networks.policy.raw_init_std if policy else 0.0,
            config.policy.min_std,
            rssm.min_std,
            *map(pointer, self._read),
            None,
            pointer(self.actions),
        )

    def keep_trace(self) -> None:
        """Room for what the backward pass needs."""
        self.blocks = -(-self.rows // self.block)
        size = self.of._trace_bytes(byref(self.arguments))
        self.trace = torch.empty(size * self.blocks * self.horizon + 64, dtype=torch.uint8)
        # Aligned as a cache's lines are.
        self.arguments.trace = (pointer(self.trace) + 63) // 64 * 64
        rows = self.horizon * self.rows
        layers = list(self.of.policy.array)
        self.inputs = [torch.empty(rows, x.in_padded, dtype=self.of.dtype) for x in layers]
        for i, x in enumerate(self.inputs):
            self.arguments.inputs[i] = pointer(x)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Features and actions. Neither is kept here: autograd would keep all of it alive."""
        states, dtype = self.horizon + 1, self.of.dtype
        feature = torch.empty(states, self.rows, self.features, dtype=dtype)
        self.arguments.feature = pointer(feature)
        self.of._forward(byref(self.arguments))
        return feature, self.actions.clone()

    def backward(self, d_feature: Tensor, d_actions: Tensor) -> list[Tensor]:
        """Gradients of the policy's parameters."""
        of, rows = self.of, self.horizon * self.rows
        read = d_feature.to(of.dtype).contiguous(), fp32(d_actions)
        self.arguments.d_feature, self.arguments.d_actions = map(pointer, read)
        gradients = [
            Gradient(part, layer, rows, self.blocks, of.dtype)
            for part, layer in zip(of.policy.parts, of.policy.array)
        ]
        for i, gradient in enumerate(gradients):
            self.arguments.d_outputs[i] = pointer(gradient.products)
            self.arguments.d_affine[i] = gradient.affine
        of._backward(byref(self.arguments))
        found = zip(gradients, self.inputs)
        return [x for gradient, read in found for x in gradient.of_parameters(read)]


class _Imagine(torch.autograd.Function):
    """A rollout, differentiable with respect to the policy's parameters."""

    @staticmethod
    def forward(ctx: Any, of: Imagination, deter: Tensor, stoch: Tensor, plan: Tensor,
                action_noise: Tensor, latent_noise: Tensor, *learned: Tensor) -> Any:  # fmt: skip
        call = Call(of, Latent(deter, stoch), plan, RolloutNoise(action_noise, latent_noise))
        if any(ctx.needs_input_grad):
            call.keep_trace()
            ctx.call = call
        return call.forward()

    @staticmethod
    def backward(ctx: Any, d_feature: Tensor, d_actions: Tensor) -> Any:
        learned = ctx.call.of.learned
        gradients = ctx.call.backward(d_feature, d_actions)
        matched = (x.to(y.dtype) for x, y in zip(gradients, learned, strict=True))
        return (None,) * 6 + tuple(matched)


def recurrence(rssm: Any) -> list[Part]:
    """Of the RSSM: the layer that it is entered by, and its GRU."""
    norm = rssm.enter_norm if isinstance(rssm.enter_norm, torch.nn.LayerNorm) else None
    gru = rssm.gru
    return [
        Part(rssm.enter.weight, rssm.enter.bias, norm),
        Part(gru.weight_ih, gru.bias_ih, groups=3),
        Part(gru.weight_hh, gru.bias_hh, groups=3),
    ]
