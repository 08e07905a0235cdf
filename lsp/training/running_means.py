"""Running means of the metrics of updates."""

import torch
from torch import Tensor


class RunningMeans:
    """Sums and their count, kept on the device until the means are taken."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.float()
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means since the last call; empty where there was no update."""
        sums, count, self.sums, self.count = self.sums, self.count, {}, 0
        values = torch.stack(list(sums.values())).tolist() if sums else []
        return {name: value / count for name, value in zip(sums, values, strict=True)}
