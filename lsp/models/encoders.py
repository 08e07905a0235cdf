"""From observations to an embedding and back: vectors through MLPs, images through convolutions."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lsp.config import ModelConfig
from lsp.errors import UserError
from lsp.models.distributions import LOG_2PI, Normal, softly_clamped_std
from lsp.models.layers import MLP, ConvDecoder, ConvEncoder

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every observation by key: (n,) is a vector, (64, 64, 3) an image."""
Observation = Mapping[str, Tensor]


def symlog(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """sign(x) ln(1 + |x|): compresses large readings, leaves small ones (DreamerV3)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


def finite_numbers(name: str, given: object) -> np.ndarray:
    """What an agent is given, as bytes or float32. Raises UserError where it is anything else: a
    single NaN would stay in the latent state until the episode ends."""
    try:
        numbers = np.asarray(given)
        numbers = numbers if numbers.dtype == np.uint8 else numbers.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be an array of numbers, not {given!r:.60}") from error
    if not np.isfinite(numbers).all():
        raise UserError(f"{name} is not finite: {numbers!s:.60}")
    return numbers


def _split(shapes: Shapes) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of the vectors and channels of the images, in a fixed order."""
    vectors = {k: s[0] for k, s in sorted(shapes.items()) if len(s) == 1}
    images = {k: s[-1] for k, s in sorted(shapes.items()) if len(s) == 3}
    return vectors, images


class Preprocessor(nn.Module):
    """Raw observations to what the encoder reads and the decoder predicts."""

    def __init__(self, shapes: Shapes, config: ModelConfig):
        """Raises UserError where `untransformed` names what is not observed, but for `goal`."""
        super().__init__()
        self.vectors, self.images = _split(shapes)
        if unknown := set(config.untransformed) - {*self.vectors, *ModelConfig().untransformed}:
            raise UserError(
                f"model.untransformed: there is no vector {', '.join(sorted(unknown))}: choose of "
                f"{', '.join(self.vectors) or 'none, as only images are observed'}"
            )
        compress = config.obs_transform == "symlog"
        self.compressed = [k for k in self.vectors if compress and k not in config.untransformed]

    def tensors(
        self, observation: Mapping[str, np.ndarray], device: torch.device, num_envs: int | None
    ) -> Observation:
        """What an environment shows, or so many environments at once, with a leading axis of envs.

        Raises:
            UserError: it is no dict of these arrays, or they are not finite.
        """
        shapes: dict[str, tuple[int, ...]] = {key: (n,) for key, n in self.vectors.items()}
        shapes |= {key: (64, 64, channels) for key, channels in self.images.items()}
        wanted = ", ".join(f"'{key}' {list(shape)}" for key, shape in shapes.items())
        if not isinstance(observation, Mapping):
            raise UserError(
                f"an observation is a dict of arrays, {wanted}, not {type(observation).__name__}: "
                "give what reset and step of lsp.make_env's environment return"
            )
        for key, shape in shapes.items():
            full = shape if num_envs is None else (num_envs, *shape)
            found = np.shape(observation[key]) if key in observation else None
            if found != full:
                seen = "is missing" if found is None else f"has shape {list(found)}"
                raise UserError(
                    f"observation '{key}' {seen}: this agent sees {wanted}"
                    + ("" if num_envs is None else f", of {num_envs} environments at once")
                )
        arrays = {key: finite_numbers(f"observation '{key}'", observation[key]) for key in shapes}
        tensors = {key: torch.as_tensor(x, device=device) for key, x in arrays.items()}
        return tensors if num_envs is not None else {key: x[None] for key, x in tensors.items()}

    def forward(self, observation: Observation) -> dict[str, Tensor]:
        """Vectors transformed; images `[..., 64, 64, C]` of bytes to `[..., C, 64, 64]` ± 0.5."""
        vectors = {key: observation[key].float() for key in self.vectors}
        vectors |= {key: symlog(vectors[key]) for key in self.compressed}
        images = {key: observation[key].movedim(-1, -3).float() / 255 - 0.5 for key in self.images}
        return vectors | images

    def restore(self, seen: Observation) -> dict[str, Tensor]:
        """The inverse: what the decoder predicts as raw observations, images as bytes."""
        vectors = {key: seen[key] for key in self.vectors}
        vectors |= {key: symexp(vectors[key]) for key in self.compressed}
        pictures = {key: ((seen[key] + 0.5).clamp(0, 1) * 255).round() for key in self.images}
        return vectors | {key: x.byte().movedim(-3, -1) for key, x in pictures.items()}


class Encoder(nn.Module):
    """Preprocessed observations to one embedding of `outputs` numbers."""

    __call__: Callable[..., Tensor]

    def __init__(self, shapes: Shapes, config: ModelConfig):
        super().__init__()
        self.vectors, self.images = _split(shapes)
        self.outputs = 0
        if self.vectors:
            *hidden, last = config.encoder
            self.mlp = MLP(sum(self.vectors.values()), hidden, last, config.layer_norm)
            self.outputs += last
        if self.images:
            self.conv = ConvEncoder(sum(self.images.values()), config.cnn_depth)
            self.outputs += self.conv.outputs

    def forward(self, inputs: Observation) -> Float[Tensor, "*batch embedding"]:
        parts = []
        if self.vectors:
            vector = torch.cat([inputs[key] for key in self.vectors], -1)
            parts.append(nn.functional.elu(self.mlp(vector)))
        if self.images:
            parts.append(self.conv(torch.cat([inputs[key] for key in self.images], -3)))
        return torch.cat(parts, -1)


class Decoder(nn.Module):
    """q(o | s): a Normal over every preprocessed observation.

    Vectors have a learned, softly clamped standard deviation (A.3), images unit variance
    (Dreamer v1).
    """

    def __init__(self, features: int, shapes: Shapes, config: ModelConfig):
        super().__init__()
        self.vectors, self.images = _split(shapes)
        assert config.decoder_std is not None  # of resolved settings
        self.std_bounds = config.decoder_std
        if self.vectors:
            size = sum(self.vectors.values())
            self.mlp = MLP(features, config.decoder, 2 * size, config.layer_norm)
        if self.images:
            self.conv = ConvDecoder(features, sum(self.images.values()), config.cnn_depth)

    def vector(self, feature: Float[Tensor, "*batch features"]) -> Normal:
        """All vector observations, concatenated in alphabetical order of their keys."""
        mean, log_std = self.mlp(feature).chunk(2, -1)
        return Normal(mean, softly_clamped_std(log_std, self.std_bounds))

    def vectors_of(self, feature: Float[Tensor, "*batch features"]) -> dict[str, Tensor]:
        """The mean of every preprocessed vector."""
        parts = self.vector(feature).mean.split(list(self.vectors.values()), -1)
        return dict(zip(self.vectors, parts, strict=True))

    def forward(self, feature: Float[Tensor, "*batch features"]) -> dict[str, Tensor]:
        """The mean of every preprocessed observation."""
        means = self.vectors_of(feature) if self.vectors else dict[str, Tensor]()
        if self.images:
            parts = self.conv(feature).split(list(self.images.values()), -3)
            means |= dict(zip(self.images, parts, strict=True))
        return means

    def log_prob(
        self,
        feature: Float[Tensor, "rows features"],
        target: Observation,
        decoded: Int[Tensor, " images"] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """ln q(o | s), summed over everything observed, and the error of each key (RMS); both on
        average over rows. For images the rows `decoded` may stand for all."""
        log_prob, errors = feature.new_zeros(()), dict[str, Tensor]()
        if self.vectors:
            normal = self.vector(feature)
            truth = torch.cat([target[key] for key in self.vectors], -1)
            log_prob = log_prob + normal.log_prob(truth).mean()
            errors |= _rms(normal.mean - truth, self.vectors, axis=-1)
        if self.images:
            rows = slice(None) if decoded is None else decoded
            truth = torch.cat([target[key][rows] for key in self.images], -3)
            error = self.conv(feature[rows]) - truth
            log_prob = log_prob - 0.5 * (error.square() + LOG_2PI).sum((-1, -2, -3)).mean()
            errors |= _rms(error, self.images, axis=-3)
        return log_prob, errors


def _rms(error: Tensor, sizes: dict[str, int], axis: int) -> dict[str, Tensor]:
    """Root mean square of each key's part of `error` along `axis`."""
    parts = error.detach().split(list(sizes.values()), axis)
    return {key: part.square().mean().sqrt() for key, part in zip(sizes, parts, strict=True)}
