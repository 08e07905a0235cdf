"""Building blocks with Keras initialisation: MLP, GRU cell, convolutional encoder and decoder."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def keras_init(module: Module) -> Module:
    """Glorot uniform kernels, orthogonal recurrent kernels, zero biases (Keras defaults).

    PyTorch's own defaults are smaller; Dreamer v1 was tuned with these.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.GRUCell):
            nn.init.xavier_uniform_(part.weight_ih)
            nn.init.orthogonal_(part.weight_hh)
            nn.init.zeros_(part.bias_ih)
            nn.init.zeros_(part.bias_hh)
    return module


class MLP(nn.Sequential):
    """Linear layers with ELU between them, `[..., inputs] → [..., outputs]`.

    Hidden layers compute in the precision of the weights, the last one always in fp32, and so is
    what comes out: bf16 would round a value of 100 to steps of 0.5. `faster` may compute the same
    in its place (`backends`).
    """

    __call__: Callable[..., Tensor]
    faster: Callable[[Tensor], Tensor] | None = None

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, layer_norm: bool = False):
        layers: list[nn.Module] = []
        for width in hidden:
            layers.append(nn.Linear(inputs, width))
            if layer_norm:
                layers.append(nn.LayerNorm(width))
            layers.append(nn.ELU())
            inputs = width
        layers.append(nn.Linear(inputs, outputs))
        super().__init__(*layers)
        keras_init(self)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        if self.faster is not None:
            return self.faster(x)
        *hidden, last = self
        assert isinstance(last, nn.Linear)
        x = x.to(last.weight.dtype)
        for layer in hidden:
            x = layer(x)
        return F.linear(x.float(), last.weight.float(), last.bias.float())


class ConvEncoder(nn.Module):
    """64×64 images to a vector of 32·depth numbers (Dreamer v1)."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, kernel_size=4, stride=2), nn.ReLU()]
        self.layers = keras_init(nn.Sequential(*layers, nn.Flatten()))
        self.outputs = 8 * depth * 2 * 2

    def forward(
        self, image: Float[Tensor, "*batch channels 64 64"]
    ) -> Float[Tensor, "*batch features"]:
        """Images with values in [-0.5, 0.5]."""
        batch = image.shape[:-3]
        features: Tensor = self.layers(image.reshape(-1, *image.shape[-3:]))
        return features.reshape(*batch, -1)


class ConvDecoder(nn.Module):
    """A vector to the mean of a 64×64 image (Dreamer v1)."""

    def __init__(self, inputs: int, channels: int, depth: int):
        super().__init__()
        self.project = keras_init(nn.Linear(inputs, 32 * depth))
        widths, kernels = [32 * depth, 4 * depth, 2 * depth, depth, channels], [5, 5, 6, 6]
        layers: list[nn.Module] = []
        for before, after, kernel in zip(widths[:-1], widths[1:], kernels, strict=True):
            layers += [nn.ConvTranspose2d(before, after, kernel, stride=2), nn.ReLU()]
        self.layers = keras_init(nn.Sequential(*layers[:-1]))

    def forward(
        self, feature: Float[Tensor, "*batch features"]
    ) -> Float[Tensor, "*batch channels 64 64"]:
        batch = feature.shape[:-1]
        flat = self.project(feature).reshape(-1, self.project.out_features, 1, 1)
        image: Tensor = self.layers(flat)
        return image.reshape(*batch, *image.shape[-3:])
