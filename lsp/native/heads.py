"""`Networks.judge` by kernels, where no gradient is asked for."""

from ctypes import POINTER, Structure, byref, c_int64, c_void_p

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.native.layers import Layer, Packed, kernel, parts_of, pointer, rows_per_block
from lsp.networks import Judgement, Networks


class Arguments(Structure):
    """Heads in heads.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "block", "features", "networks")),
        ("counts", c_void_p),
        ("layers", POINTER(Layer)),
        ("feature", c_void_p),
        ("outputs", c_void_p),
    )


class Heads:
    """Reward, slow value and termination head of `networks`, with weights in `dtype`."""

    def __init__(self, networks: Networks, dtype: torch.dtype):
        model, self.dtype = networks.world_model, dtype
        heads = [model.reward_head]
        self.has_value, self.has_termination = False, bool(model.config.termination)
        if not networks.config.plans_actions:
            self.has_value = True
            heads.append(networks.slow_value.net)
        if self.has_termination:
            heads.append(model.termination_head)
        parts = [parts_of(head) for head in heads]
        self.widths = [head[-1].weight.shape[0] for head in parts]
        self.packed = Packed([part for head in parts for part in head], dtype)
        self._counts = torch.tensor([len(head) for head in parts])
        self._judge = kernel("judge", dtype)

    def refresh(self) -> None:
        """Take over the networks' weights."""
        self.packed.refresh()

    def __call__(self, feature: Float[Tensor, "*batch features"]) -> Judgement:
        """`Networks.judge`."""
        batch, features = feature.shape[:-1], feature.shape[-1]
        read = feature.to(self.dtype).contiguous()
        rows = batch.numel()
        outputs = [torch.empty(*batch, width) for width in self.widths]
        addresses = torch.tensor([x.data_ptr() for x in outputs])
        arguments = Arguments(
            *(rows, rows_per_block(rows), features, len(outputs)),
            pointer(self._counts),
            self.packed.array,
            *(pointer(read), pointer(addresses)),
        )
        self._judge(byref(arguments))
        reward = outputs[0].squeeze(-1)
        going_on = torch.ones_like(reward)
        if self.has_termination:
            going_on = torch.sigmoid(-outputs[-1].squeeze(-1))
        value = outputs[1] if self.has_value else torch.zeros_like(outputs[0])
        return Judgement(reward, going_on, value)
