"""The weights of an agent: half the bytes, and no copies that can be made again."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from lsp.runs.agents import WEIGHTS, check_files
from lsp.runs.checkpoint import Checkpoint, read_tensors
from lsp.runs.files import write_bytes

_COPIES = {
    "value.": "slow_value.",  # plans are scored by the slow one
    "manager.slow_actor.": "manager.actor.",
    "manager.slow_critics.": "manager.critics.",
    "worker.slow_actor.": "worker.actor.",
    "worker.slow_critics.": "worker.critics.",
}
"""What is left out, and made again of what an agent acts by."""


def packed(weights: Mapping[str, Tensor], half: bool) -> dict[str, Tensor]:
    """What is stored of a run's weights: with `half` matrices have 16 bits, where none becomes
    infinite by that; vectors are few, and some are statistics."""
    kept = {name: x for name, x in weights.items() if not name.startswith(tuple(_COPIES))}
    return {name: _halved(x) if half else x for name, x in kept.items()}


def unpacked(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights of an agent's networks again, in full precision."""
    weights = {name: x.float() if x.is_floating_point() else x for name, x in stored.items()}
    copies = {
        f"{copy}{name.removeprefix(kept)}": x
        for copy, kept in _COPIES.items()
        for name, x in weights.items()
        if name.startswith(kept)
    }
    return weights | copies


def _halved(x: Tensor) -> Tensor:
    half = x.half()
    return half if x.ndim > 1 and bool(torch.isfinite(half).all()) else x


def write_weights(folder: Path, weights: Mapping[str, Tensor], half: bool) -> None:
    """Store a run's weights in an agent's folder. Raises OSError."""
    plain = {name: x.detach().cpu().contiguous() for name, x in packed(weights, half).items()}
    write_bytes(folder / WEIGHTS, to_bytes(plain))


def read_agent(folder: Path) -> Checkpoint:
    """An agent as the checkpoint of a run without episodes. Raises UserError where it is
    damaged."""
    card = check_files(folder)
    tensors = {"networks": unpacked(read_tensors(folder / WEIGHTS))}
    return Checkpoint(card.env_steps, tensors, {}, {"run": card.run, "episodes": 0})
