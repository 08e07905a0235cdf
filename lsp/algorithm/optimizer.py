"""The optimiser of everything that is learned."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_Adam: Any = torch.optim.Adam


class Adam(torch.optim.Adam):
    """PyTorch's fused Adam (Kingma and Ba 2015), made ready without its compiler.

    PyTorch shields these methods from torch.compile, and imports all of it to do so, which takes
    as long as importing PyTorch itself. No optimiser is compiled here.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, epsilon: float):
        parameters = list(parameters)
        on_gpu = any(x.is_cuda for x in parameters)
        super().__init__(parameters, rate, eps=epsilon, fused=True, capturable=on_gpu)

    add_param_group = _Adam.add_param_group.__wrapped__
    state_dict = _Adam.state_dict.__wrapped__
    load_state_dict = _Adam.load_state_dict.__wrapped__
    zero_grad = _Adam.zero_grad.__wrapped__
    step = torch.no_grad()(_Adam.step.__wrapped__)
