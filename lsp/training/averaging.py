"""A slow copy of all weights, which is evaluated in their place (Polyak and Juditsky 1992).

Weights waver from update to update, and their average does better than most of them
(docs/notebook/averaging.md).
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor

from lsp.training.build import AnyNetworks


class AveragedWeights:
    """Networks whose weights follow those of `source` at `rate`, a step after each update."""

    def __init__(self, source: AnyNetworks, rate: float):
        self.networks, self.rate = deepcopy(source).requires_grad_(False), rate
        self._source, self._own = _weights(source), _weights(self.networks)

    def restart(self) -> None:
        """With the source's weights as they are now."""
        torch._foreach_copy_(self._own, self._source)

    @torch.no_grad()
    def follow(self, updates: int) -> None:
        """Move towards the source, whose weights are those after `updates`, at least one.

        The first ones are an even mean of all that have been, so that nothing of the weights before
        learning is left in it.
        """
        torch._foreach_lerp_(self._own, self._source, max(self.rate, 1 / updates))

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return dict(self.networks.state_dict())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.networks.load_state_dict(state)


def _weights(networks: AnyNetworks) -> list[Tensor]:
    """All that a checkpoint keeps of them; counters and the like are no weights."""
    return [x for x in networks.state_dict().values() if x.is_floating_point()]
