"""What the world model sees and foresees, as a film: the picture Dreamer's users look at first."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeGuard

import imageio.v3
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from lsp.models.networks import Networks
from lsp.models.world_model import Latent
from lsp.rows import observations
from lsp.runs.files import replacing
from lsp.training.replay import Replay

CONTEXT = 5  # agent steps that the model observes before it predicts (Dreamer v1)
PREDICTED = 45  # agent steps that it is then given the actions of, and nothing else
SEQUENCES = 6
FRAMES_PER_SECOND = 10

Film = UInt8[np.ndarray, "sequences time height width channels"]


class Prediction(NamedTuple):
    """What was to be seen, what the model makes of it while looking, and with its eyes shut."""

    truth: Film
    reconstruction: Film
    open_loop: Film


def has_images(networks: nn.Module) -> TypeGuard[Networks]:
    """Whether there is a world model, and it sees images."""
    return isinstance(networks, Networks) and bool(networks.world_model.preprocess.images)


@torch.no_grad()
def predict(networks: Networks, batch: Mapping[str, np.ndarray]) -> Prediction:
    """Open-loop predictions of replayed sequences `[sequences, CONTEXT + n, ...]` of images.

    Latents take the means of their distributions.
    """
    model, device = networks.world_model, networks.device
    data = {key: torch.as_tensor(x, device=device) for key, x in batch.items()}
    targets = model.preprocess(observations(data))
    still = torch.zeros(*data["reward"].shape, model.config.stoch, device=device)
    seen, _, _ = model.rssm.observe(model.encoder(targets), data["action"], data["is_first"], still)
    latents = [Latent(*(x[:, t] for x in seen)) for t in range(CONTEXT)]
    for t in range(CONTEXT, still.shape[1]):
        latents.append(model.rssm.imagine(latents[-1], data["action"][:, t], still[:, t]))
    foreseen = Latent(*(torch.stack(parts, 1) for parts in zip(*latents, strict=True)))
    films = (_film(model.decoder(states.feature), networks) for states in (seen, foreseen))
    return Prediction(_film(targets, networks), *films)


def draw_sequences(replay: Replay) -> dict[str, np.ndarray] | None:
    """Some sequences from within episodes; None while there are none. Always the same draws."""
    length = CONTEXT + PREDICTED
    if len(replay) < length:
        return None
    batch = replay.sample(8 * SEQUENCES, length, np.random.default_rng(0))
    whole = np.flatnonzero(~batch["is_first"][:, 1:].any(1))[:SEQUENCES]
    return {key: x[whole] for key, x in batch.items()} if len(whole) else None


def write_film(networks: Networks, replay: Replay, path: Path) -> None:
    """A GIF with a column for each sequence: truth, reconstruction, open loop, and its error.

    Nothing is written while the replay holds no sequence that is long enough.
    """
    batch = draw_sequences(replay)
    if batch is None:
        return
    prediction = predict(networks, batch)
    error = prediction.open_loop.astype(np.int16) - prediction.truth
    rows = [*prediction, (error // 2 + 128).astype(np.uint8)]
    # [row, sequence, time, height, width, channel] → [time, rows · height, sequences · width, …]
    film = np.stack(rows).transpose(2, 0, 3, 1, 4, 5)
    time, _, height, sequences, width, channels = film.shape
    film = film.reshape(time, len(rows) * height, sequences * width, channels)
    with replacing(path) as new:
        imageio.v3.imwrite(new, film, duration=1000 / FRAMES_PER_SECOND, loop=0)


def _film(images: Mapping[str, Float[Tensor, "..."]], networks: Networks) -> Film:
    """Preprocessed images as bytes, those of several keys side by side; grey ones as colours."""
    parts = []
    for key in networks.world_model.preprocess.images:
        image = ((images[key] + 0.5).clamp(0, 1) * 255).round().byte().movedim(-3, -1)
        parts.append(image.expand(*image.shape[:-1], 3) if image.shape[-1] == 1 else image[..., :3])
    return torch.cat(parts, -2).cpu().numpy()
