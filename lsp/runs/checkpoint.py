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
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from lsp.errors import UserError, warn
from lsp.runs.files import (
    entries,
    opened,
    read_arrays,
    read_bytes,
    read_json,
    sync,
    write_arrays,
    write_bytes,
    write_json,
)

SCHEMA = 2
KEEP = 3


class Checkpoint(NamedTuple):
    """What is saved: tensors by group and name, arrays of the unfinished episodes, plain facts."""

    env_steps: int
    tensors: dict[str, dict[str, Tensor]]
    episode: dict[str, np.ndarray]
    facts: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder/step-…` atomically, verify it, and drop all but the newest three.

    Returns its path. Raises OSError where it cannot be written, and UserError where what was
    written is not what is read; then all older ones are still there.
    """
    final = folder / f"step-{checkpoint.env_steps:09d}"
    temporary = folder / f"tmp-{final.name}"
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    try:
        _write(temporary, checkpoint)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if final.exists():
        _discard(final)
    temporary.rename(final)
    sync(folder)
    _verify(final)
    # What is newer than this one was damaged, and is nothing to resume from.
    older = [path for path in _candidates(folder) if path.name < final.name]
    for path in older[KEEP - 1 :]:
        _discard(path)
    return final


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None where none was ever written; damaged ones are
    named in a warning.

    Raises UserError if there are checkpoints and all of them are damaged, or `folder` cannot be
    read.
    """
    problems = []
    for path in _candidates(folder):
        try:
            checkpoint = load(path)
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f"{problem}: resuming from {path.name} instead")
        return checkpoint
    if problems:
        raise UserError(
            f"no checkpoint in {folder} can be read: {'; '.join(problems)}: restore one of them, "
            "or name the folder of another run"
        )
    return None


def load_at(folder: Path, env_steps: int) -> Checkpoint:
    """The checkpoint after so many env steps. Raises UserError where it is not kept, or damaged."""
    path = folder / f"step-{env_steps:09d}"
    if not path.is_dir():
        names = [each.name.removeprefix("step-") for each in reversed(_candidates(folder))]
        there = ", ".join(str(int(name)) for name in names if name.isdecimal()) or "none"
        raise UserError(f"{folder} keeps no checkpoint of {env_steps} env steps: there are {there}")
    return load(path)


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises UserError naming the file that is damaged."""
    manifest = _verify(path)
    tensors = {}
    for name in manifest["files"]:
        if name.endswith(".safetensors"):
            tensors[name.removesuffix(".safetensors")] = read_tensors(path / name)
    episode = read_arrays(path / "episode.npz")
    return Checkpoint(manifest["env_steps"], tensors, episode, read_json(path / "facts.json"))


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir()
    for group, tensors in checkpoint.tensors.items():
        plain = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
        write_bytes(folder / f"{group}.safetensors", to_bytes(plain))
    write_arrays(folder / "episode.npz", checkpoint.episode)
    write_json(folder / "facts.json", checkpoint.facts)
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    content = {"schema": SCHEMA, "env_steps": checkpoint.env_steps, "files": files}
    write_json(folder / "manifest.json", _with_sum(content))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Those of one file. Raises UserError where it is damaged."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({error})") from error
    return tensors


def _verify(path: Path) -> dict[str, Any]:
    """The manifest, if all it lists is there, unchanged. Raises UserError naming what is not."""
    manifest = _read_manifest(path / "manifest.json")
    for name, expected in manifest["files"].items():
        # A manifest that somebody made must not have us read elsewhere.
        inside = Path(name).name == name and (path / name).is_file()
        if not inside or _fingerprint(path / name) != expected:
            raise UserError(f"{path / name} is missing or damaged")
    return manifest


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path)
    schema = manifest.get("schema")
    if type(schema) is int and schema != SCHEMA:
        raise UserError(
            f"{path.parent} has checkpoint schema {schema}, this version of lsp reads {SCHEMA}: "
            "use the version that wrote it"
        )
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    # Written again it must be the same, byte for byte: else blanks could change unseen.
    unchanged = read_bytes(path) == json.dumps(_with_sum(content), indent=1).encode()
    parts = manifest.get("files"), manifest.get("env_steps")
    if not unchanged or not isinstance(parts[0], dict) or type(parts[1]) is not int:
        raise UserError(f"{path} is damaged")
    return manifest


def _with_sum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with a sum over itself."""
    text = json.dumps(content, indent=1)
    return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _candidates(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    return entries(folder, "step-*")[::-1]


def _discard(path: Path) -> None:
    """Remove a checkpoint; killed half-way through, what is left is no candidate any more."""
    doomed = path.with_name(f"tmp-old-{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def _remove_leftovers(folder: Path) -> None:
    """What a killed process had not finished."""
    for path in folder.glob("tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def _fingerprint(path: Path) -> dict[str, Any]:
    with opened(path) as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
