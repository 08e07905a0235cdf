"""The world model of eq. 1: a recurrent state-space model (RSSM) with observation and reward heads.

The latent s_t is a deterministic recurrent part and a stochastic part (Dreamer v1, PlaNet).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lsp.config import ModelConfig
from lsp.models.distributions import LOG_2PI, Normal
from lsp.models.encoders import Decoder, Encoder, Observation, Preprocessor, Shapes
from lsp.models.layers import MLP, keras_init
from lsp.rows import observations

Metrics = dict[str, Tensor]


class Latent(NamedTuple):
    """Model state s_t."""

    deter: Float[Tensor, "*batch deter"]
    stoch: Float[Tensor, "*batch stoch"]

    @property
    def feature(self) -> Float[Tensor, "*batch features"]:
        """What every head reads."""
        return torch.cat([self.deter, self.stoch], -1)

    def detach(self) -> "Latent":
        return Latent(self.deter.detach(), self.stoch.detach())

    def flatten(self) -> "Latent":
        """`[batch, time, ...]` to `[batch · time, ...]`."""
        return Latent(self.deter.flatten(0, 1), self.stoch.flatten(0, 1))

    def to(self, dtype: torch.dtype) -> "Latent":
        """The same states in another precision."""
        return Latent(self.deter.to(dtype), self.stoch.to(dtype))

    def rows(self, index: Tensor | slice) -> "Latent":
        """The states at `index` along the first axis."""
        return Latent(self.deter[index], self.stoch[index])


Scan = Callable[[Latent, Tensor, Tensor, Tensor, Tensor], tuple[Latent, Latent, Normal]]
"""`RSSM.scan`, or a faster one."""


class RSSM(nn.Module):
    """p(s_t | s_{t-1}, a_{t-1}, o_t) and q(s_t | s_{t-1}, a_{t-1})."""

    def __init__(self, action_dim: int, embedding: int, config: ModelConfig):
        super().__init__()
        self.deter, self.stoch, self.min_std = config.deter, config.stoch, config.min_std
        hidden, norm = config.hidden, config.layer_norm
        self.enter = keras_init(nn.Linear(config.stoch + action_dim, hidden))
        self.enter_norm = nn.LayerNorm(hidden) if norm else nn.Identity()
        self.gru = keras_init(nn.GRUCell(hidden, config.deter))
        self.prior_head = MLP(config.deter, [hidden], 2 * config.stoch, norm)
        self.posterior_head = MLP(config.deter + embedding, [hidden], 2 * config.stoch, norm)

    def initial(self, *batch: int) -> Latent:
        """The zero state, at the start of a sequence."""
        weight = self.enter.weight
        return Latent(weight.new_zeros(*batch, self.deter), weight.new_zeros(*batch, self.stoch))

    def imagine(
        self,
        latent: Latent,
        action: Float[Tensor, "batch action"],
        noise: Float[Tensor, "batch stoch"],
    ) -> Latent:
        """One step forward without an observation; `noise` is standard normal."""
        deter, prior = self.predict(latent, action)
        return Latent(deter, prior.sample(noise).to(deter.dtype))

    def predict(
        self, latent: Latent, action: Float[Tensor, "batch action"]
    ) -> tuple[Float[Tensor, "batch deter"], Normal]:
        """What is known of the next latent: the deterministic part, and the other's density."""
        deter = self._recur(latent, action)
        return deter, self.prior(deter)

    def filter(
        self,
        latent: Latent,
        action: Float[Tensor, "batch action"],
        embedding: Float[Tensor, "batch embedding"],
        is_first: Bool[Tensor, " batch"],
        noise: Float[Tensor, "batch stoch"],
    ) -> tuple[Latent, Normal]:
        """One step forward with an observation; `is_first` rows start from the zero state."""
        keep = (~is_first).to(embedding.dtype)[:, None]
        latent = Latent(latent.deter * keep, latent.stoch * keep)
        deter = self._recur(latent, action * keep)
        posterior = self._normal(self.posterior_head(torch.cat([deter, embedding], -1)))
        return Latent(deter, posterior.sample(noise).to(deter.dtype)), posterior

    def prior(self, deter: Float[Tensor, "*batch deter"]) -> Normal:
        return self._normal(self.prior_head(deter))

    def scan(
        self,
        latent: Latent,
        action: Float[Tensor, "batch time action"],
        embedding: Float[Tensor, "batch time embedding"],
        is_first: Bool[Tensor, "batch time"],
        noise: Float[Tensor, "batch time stoch"],
    ) -> tuple[Latent, Latent, Normal]:
        """Filter a sequence on from `latent`: the last latent, all latents, their posteriors.

        action[:, t] is the one that led to observation t.
        """
        latents, posteriors = [], []
        steps = zip(*(x.unbind(1) for x in (action, embedding, is_first, noise)), strict=True)
        for step in steps:
            latent, posterior = self.filter(latent, *step)
            latents.append(latent)
            posteriors.append(posterior)
        states = Latent(*(torch.stack(parts, 1) for parts in zip(*latents, strict=True)))
        normals = (torch.stack(parts, 1) for parts in zip(*posteriors, strict=True))
        return latent, states, Normal(*normals)

    def observe(
        self,
        embedding: Float[Tensor, "batch time embedding"],
        action: Float[Tensor, "batch time action"],
        is_first: Bool[Tensor, "batch time"],
        noise: Float[Tensor, "batch time stoch"],
        scan: Scan | None = None,
    ) -> tuple[Latent, Normal, Normal]:
        """Filter whole sequences from the zero state: latents, posteriors, priors.

        `scan` may be a faster `self.scan`.
        """
        scan = self.scan if scan is None else scan
        start = self.initial(embedding.shape[0])
        _, states, posterior = scan(start, action, embedding, is_first, noise)
        return states, posterior, self.prior(states.deter)

    def _recur(self, latent: Latent, action: Tensor) -> Tensor:
        entered = self.enter(torch.cat([latent.stoch, action.to(latent.stoch.dtype)], -1))
        deter: Tensor = self.gru(F.elu(self.enter_norm(entered)), latent.deter)
        return deter

    def _normal(self, parameters: Tensor) -> Normal:
        mean, std = parameters.chunk(2, -1)
        return Normal(mean, F.softplus(std) + self.min_std)


class WorldModel(nn.Module):
    """Encoder, RSSM, decoder, reward head and optional termination head."""

    def __init__(self, shapes: Shapes, action_dim: int, config: ModelConfig):
        super().__init__()
        self.config = config
        self.features = config.deter + config.stoch
        norm = config.layer_norm
        self.preprocess = Preprocessor(shapes, config)
        self.encoder = Encoder(shapes, config)
        self.rssm = RSSM(action_dim, self.encoder.outputs, config)
        self.decoder = Decoder(self.features, shapes, config)
        self.reward_head = MLP(self.features, config.reward, 1, norm)
        if config.termination:
            self.termination_head = MLP(self.features, config.reward, 1, norm)

    def encode(self, observation: Observation) -> Float[Tensor, "*batch embedding"]:
        return self.encoder(self.preprocess(observation))

    def loss(
        self,
        batch: dict[str, Tensor],
        generator: torch.Generator,
        scan: Scan | None = None,
        noise: Float[Tensor, "batch time stoch"] | None = None,
    ) -> tuple[Float[Tensor, ""], Latent, Metrics]:
        """The negative of eq. 1 on sequences `[batch, time, ...]`, posterior latents, metrics.

        `noise` is what posteriors are sampled with, drawn here where none is given. Where the batch
        says so (`is_paid`), rewards are learned of some of its rows alone.
        """
        config = self.config
        targets = self.preprocess(observations(batch))
        noise = self.posterior_noise(batch, generator) if noise is None else noise
        latents, posterior, prior = self.rssm.observe(
            self.encoder(targets), batch["action"], batch["is_first"], noise, scan
        )
        feature = latents.feature

        flat = {key: x.flatten(0, 1) for key, x in targets.items()}
        decoded = self._draw_decoded(feature.shape[0] * feature.shape[1], generator)
        log_obs, errors = self.decoder.log_prob(feature.flatten(0, 1), flat, decoded)
        error = self.reward_head(feature).squeeze(-1) - batch["reward"] * config.reward_scale
        squares = error.square()
        if "is_paid" in batch:
            paid = batch["is_paid"].float()
            squares = squares * paid / paid.mean()
        log_reward = -0.5 * (squares + LOG_2PI).mean()
        kl = posterior.kl(prior).mean()
        # Averaged before the free nats are taken off, as Dreamer v1 does.
        loss = config.kl_scale * kl.clamp(min=config.free_nats) - (log_obs + log_reward)
        metrics = {
            "model/kl": kl,
            "model/obs_log_prob": log_obs,
            "model/reward_error": squares.detach().mean().sqrt(),
            "model/prior_std": prior.std.mean(),
            "model/posterior_std": posterior.std.mean(),
        }
        metrics |= {f"model/error/{key}": value for key, value in errors.items()}
        if config.termination:
            logits = self.termination_head(feature).squeeze(-1)
            termination = F.binary_cross_entropy_with_logits(logits, batch["is_terminal"].float())
            loss = loss + termination
            metrics["model/termination_loss"] = termination
        return loss, latents, {"model/loss": loss} | metrics

    def posterior_noise(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> Float[Tensor, "batch time stoch"]:
        """Standard normal draws to sample the posteriors of a batch with."""
        shape = (*batch["reward"].shape, self.config.stoch)
        return torch.randn(shape, generator=generator, device=batch["reward"].device)

    def _draw_decoded(self, rows: int, generator: torch.Generator) -> Int[Tensor, " images"] | None:
        """Which of a batch's images the decoder learns from; None is all of them."""
        count = self.config.decoded_images
        if count is None or not self.decoder.images:
            return None
        order = torch.randperm(rows, generator=generator, device=generator.device)
        return order[:count]
