"""Random generators that resume where a checkpoint left them."""

import zlib

import torch
from torch import Tensor


def seeded(seed: int, device: torch.device) -> torch.Generator:
    """A new generator on a device."""
    return torch.Generator(device).manual_seed(seed)


def restore(generator: torch.Generator, state: Tensor) -> None:
    """Draw on from `state`. Kinds of device draw in different ways: where another one left it,
    what follows are other draws, the same ones whenever it is restored."""
    state = state.cpu()
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(state.numpy().tobytes()))
