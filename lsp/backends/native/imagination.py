"""`Networks.imagine` by kernels."""

from collections.abc import Sequence
from ctypes import Structure, byref, c_double, c_int64, c_void_p
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.backends.native.layers import (
    MAX_LAYERS,
    Gradient,
    Gradients,
    Mlp,
    Packed,
    Part,
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
from lsp.models.imagination import Rollout, RolloutNoise
from lsp.models.networks import Networks
from lsp.models.world_model import RSSM, Latent


class Arguments(Structure):
    """Imagination in imagination.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "horizon", "block", "starts", "noises")),
        *((name, c_int64) for name in ("deter", "stoch", "action", "skill")),
        *((name, c_int64) for name in ("plan_length", "skill_length", "stop_input_gradient")),
        ("policy", Mlp),
        *((name, c_void_p) for name in ("enter", "gru_input", "gru_hidden")),
        ("prior", Mlp),
        *((name, c_double) for name in ("raw_init_std", "policy_min_std", "min_std")),
        *((name, c_void_p) for name in ("start_deter", "start_stoch", "plan")),
        *((name, c_void_p) for name in ("action_noise", "latent_noise")),
        *((name, c_void_p) for name in ("feature", "actions", "score", "heads")),
        ("num_heads", c_int64),
        *((name, c_void_p) for name in ("judged", "memory")),
        ("inputs", c_void_p * MAX_LAYERS),
        *((name, c_void_p) for name in ("d_feature", "d_actions", "d_plan", "d_score", "d_drawn")),
        ("gradients", Gradients),
    )


class Imagination:
    """Rolls plans out in the world model of `networks`, with weights in `dtype`.

    `learned` are the policy's parameters that gradients are for; their values are not read.
    `of_actions` says that plans are actions, one for each step, where the networks have a policy.
    """

    def __init__(
        self,
        networks: Networks,
        learned: Sequence[Tensor],
        dtype: torch.dtype,
        of_actions: bool = False,
    ):
        self.networks, self.learned, self.dtype = networks, learned, dtype
        rssm, config = networks.world_model.rssm, networks.config
        self.acts = not (of_actions or config.plans_actions)
        self.skill_length = 1 if of_actions else config.planner.skill_length
        self.policy = Packed(parts_of(networks.policy.net) if self.acts else [], dtype)
        self.model = Packed([*recurrence(rssm), *parts_of(rssm.prior_head)], dtype)
        self.run, self.run_backward = kernel("imagine", dtype), kernel("imagine_backward", dtype)
        self.bytes = kernel("imagine_bytes", dtype)
        self.bytes.restype = c_int64

    def __call__(
        self, start: Latent, plan: Float[Tensor, "batch plan skill"], noise: RolloutNoise
    ) -> Rollout:
        """`Networks.imagine`, in `dtype`; gradients reach the policy alone, or the plan alone where
        it wants one: nothing learns from a plan that is still looked for."""
        self.policy.refresh()
        self.model.refresh()
        if not torch.is_grad_enabled():
            return Rollout(*Call(self, start, plan, noise).forward())
        inputs = (*start, plan, *noise, *(() if plan.requires_grad else self.learned))
        return Rollout(*_Imagine.apply(self, *inputs))  # type: ignore[no-untyped-call]


class Call:
    """One rollout: its arguments, and the memory that they point to.

    Without gradients, row i of `plan` may share start i mod s with others, of s, and its noise
    likewise.
    """

    def __init__(self, of: Imagination, start: Latent, plan: Tensor, noise: RolloutNoise):
        config, rssm = of.networks.config, of.networks.world_model.rssm
        rows, length, skill = plan.shape
        self.of, self.rows, self.horizon = of, rows, noise.action.shape[0]
        block = rows_per_block(rows)
        self.blocks, self.features = -(-rows // block), rssm.deter + rssm.stoch
        self.read = [fp32(x) for x in (*start, plan, *noise)]
        self.actions = torch.empty(self.horizon, rows, of.networks.action_dim)
        self.arguments = Arguments(
            *(rows, self.horizon, block, len(start.deter), noise.action.shape[1]),
            *(rssm.deter, rssm.stoch, of.networks.action_dim, skill),
            *(length, of.skill_length, config.policy.stop_input_gradient),
            of.policy.mlp(),
            *(of.model.address(i) for i in range(3)),
            of.model.mlp(3),
            of.networks.policy.raw_init_std if of.acts else 0.0,
            *(config.policy.min_std, rssm.min_std),
            *map(pointer, self.read),
        )
        self.arguments.actions = pointer(self.actions)

    def keep(self) -> None:
        """Room for what the backward pass needs."""
        rows, dtype = self.horizon * self.rows, self.of.dtype
        widths = [layer.in_padded for layer in self.of.policy.array]
        self.inputs = [torch.empty(rows, width, dtype=dtype) for width in widths]
        self.memory = room(self.of.bytes(byref(self.arguments)))
        self.arguments.inputs = pointers(self.inputs)
        self.arguments.memory = aligned(self.memory)

    def run(self) -> None:
        self.of.run(byref(self.arguments))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Features and actions. Neither is kept here: autograd would keep all of it alive."""
        feature = torch.empty(self.horizon + 1, self.rows, self.features, dtype=self.of.dtype)
        self.arguments.feature = pointer(feature)
        self.run()
        return feature, self.actions.clone() if self.arguments.memory else self.actions

    def backward(self, d_feature: Tensor, d_actions: Tensor) -> list[Tensor]:
        """Gradients of the policy's parameters."""
        read = d_feature.to(self.of.dtype).contiguous(), fp32(d_actions)
        self.arguments.d_feature, self.arguments.d_actions = map(pointer, read)
        return self.learn()

    def learn(self) -> list[Tensor]:
        """The way back to the policy, from the gradients that `arguments` point to."""
        policy = self.of.policy
        found = [
            Gradient(part, layer, self.horizon * self.rows, self.blocks, self.of.dtype)
            for part, layer in zip(policy.parts, policy.array)
        ]
        self.arguments.gradients = gradients_of(found)
        self.of.run_backward(byref(self.arguments))
        each = (one.of_parameters(read) for one, read in zip(found, self.inputs))
        return [gradient for several in each for gradient in several]

    def backward_to_plan(self, d_feature: Tensor, d_actions: Tensor) -> Tensor:
        """The gradient of the plan."""
        _, _, plan, *_ = self.read
        d_plan = torch.zeros_like(plan)
        self.arguments.d_plan = pointer(d_plan)
        read = d_feature.to(self.of.dtype).contiguous(), fp32(d_actions)
        self.arguments.d_feature, self.arguments.d_actions = map(pointer, read)
        self.of.run_backward(byref(self.arguments))
        return d_plan


class _Imagine(torch.autograd.Function):
    """A rollout, differentiable in the policy's parameters, or in the plan."""

    @staticmethod
    def forward(ctx: Any, of: Imagination, *inputs: Tensor) -> Any:
        deter, stoch, plan, action_noise, latent_noise, *_learned = inputs
        call = Call(of, Latent(deter, stoch), plan, RolloutNoise(action_noise, latent_noise))
        if any(ctx.needs_input_grad):
            call.keep()
            ctx.call, ctx.of_plan = call, ctx.needs_input_grad[3]
        return call.forward()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        if ctx.of_plan:
            return None, None, None, ctx.call.backward_to_plan(*given), None, None
        found = ctx.call.backward(*given)
        matched = (x.to(y.dtype) for x, y in zip(found, ctx.call.of.learned, strict=True))
        return (None,) * 6 + tuple(matched)


def recurrence(rssm: RSSM) -> list[Part]:
    """Of the RSSM: the layer that it is entered by, and its GRU."""
    gru, norm = rssm.gru, rssm.enter_norm
    return [
        Part(rssm.enter.weight, rssm.enter.bias, norm if isinstance(norm, nn.LayerNorm) else None),
        Part(gru.weight_ih, gru.bias_ih, groups=3),
        Part(gru.weight_hh, gru.bias_hh, groups=3),
    ]
