"""Imagination and what the heads say of it by one kernel: no state is written down."""

from ctypes import addressof

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.backends.native.heads import Heads
from lsp.backends.native.imagination import Call, Imagination
from lsp.backends.native.layers import Mlp, pointer
from lsp.models.imagination import RolloutNoise
from lsp.models.networks import HeadOutputs
from lsp.models.world_model import Latent


class Judging:
    """`Networks.judge_plans` without gradients, with the weights of `imagination` and `heads`."""

    def __init__(self, imagination: Imagination, heads: Heads):
        self.imagination, self.heads = imagination, heads

    def __call__(
        self, start: Latent, plan: Float[Tensor, "batch plan skill"], noise: RolloutNoise
    ) -> HeadOutputs:
        of, heads = self.imagination, [head.packed for head in self.heads.heads]
        for packed in (of.policy, of.model, *heads):
            packed.refresh()
        call = Call(of, start, plan, noise)
        judged = torch.empty(len(heads), call.horizon, call.rows)
        # The pointers below are to this, and end with this call.
        mlps = (Mlp * len(heads))(*(packed.mlp() for packed in heads))
        call.arguments.heads, call.arguments.num_heads = addressof(mlps), len(heads)
        call.arguments.judged = pointer(judged)
        call.run()
        return self.heads.networks.head_outputs(list(judged))
