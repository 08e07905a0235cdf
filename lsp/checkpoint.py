"""Checkpoints: one folder each, safetensors and JSON only, complete or absent.

A checkpoint is written into a `tmp-` folder, synced, listed with sizes and SHA-256 sums in
`manifest.json`, and renamed into place. The newest one is found by scanning and verifying; there is
no pointer that could be lost. Loading runs no code from the file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lsp.errors import UserError

SCHEMA = 1
KEEP = 3


class Checkpoint(NamedTuple):
    """What is saved: tensors by group and name, arrays of the unfinished episodes, plain facts."""

    env_steps: int
    tensors: dict[str, dict[str, Tensor]]
    episode: dict[str, np.ndarray]
    facts: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder/step-…` atomically and drop all but the newest three. Returns its path."""
    final = folder / f"step-{checkpoint.env_steps:09d}"
    temporary = folder / f"tmp-{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for group, tensors in checkpoint.tensors.items():
        plain = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
        save_file(plain, temporary / f"{group}.safetensors")
    np.savez(temporary / "episode.npz", **checkpoint.episode)  # type: ignore[arg-type]
    _write_json(temporary / "facts.json", checkpoint.facts)
    files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
    manifest = {"schema": SCHEMA, "env_steps": checkpoint.env_steps, "files": files}
    _write_json(temporary / "manifest.json", manifest)
    for path in temporary.iterdir():
        _sync(path)
    _sync(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync(folder)
    for old in _candidates(folder)[KEEP:]:
        shutil.rmtree(old)
    return final


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None where none was ever written.

    Raises UserError if there are checkpoints and all of them are damaged.
    """
    candidates = _candidates(folder)
    problems = []
    for path in candidates:
        try:
            return load(path)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"no checkpoint in {folder} can be read: {'; '.join(problems)}")
    return None


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises UserError naming the file that is damaged."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        schema, listed = manifest["schema"], manifest["files"]
        env_steps = int(manifest["env_steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'manifest.json'} is missing or damaged") from error
    if schema != SCHEMA:
        raise UserError(f"{path} has checkpoint schema {schema}; this version reads {SCHEMA}")
    for name, expected in listed.items():
        if not (path / name).is_file() or _fingerprint(path / name) != expected:
            raise UserError(f"{path / name} is missing or damaged")
    try:
        tensors = {x.stem: load_file(x) for x in sorted(path.glob("*.safetensors"))}
        with np.load(path / "episode.npz", allow_pickle=False) as arrays:
            episode = dict(arrays)
        facts = json.loads((path / "facts.json").read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return Checkpoint(env_steps, tensors, episode, facts)


def _candidates(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
