"""A run's folder: what lies where, what the run is, and where it came from."""

import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lsp.config import Config, RuntimeConfig, differences, from_dict, to_dict
from lsp.errors import UserError

PACKAGES = ("torch", "dm_control", "mujoco", "gymnasium", "numpy")


class RunFolder:
    """Paths inside a run's folder.

    config.json, run.json (provenance), source.json (of a transfer), metrics.jsonl, tensorboard/,
    episodes/, checkpoints/, curve.png, skills.png, open_loop.gif (from pixels), video.mp4
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    def episodes(self) -> Path:
        return self.path / "episodes"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"

    @property
    def skills(self) -> Path:
        return self.path / "skills.png"

    @property
    def open_loop(self) -> Path:
        return self.path / "open_loop.gif"

    @property
    def video(self) -> Path:
        return self.path / "video.mp4"

    def read_config(self) -> Config:
        """The run's settings. Raises UserError if this is no run's folder."""
        path = self.path / "config.json"
        try:
            return from_dict(json.loads(path.read_text()), where=str(path))
        except OSError as error:
            raise UserError(f"{self.path} is not a run: it has no readable config.json") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {error}") from error

    def write_source(self, config: Config, env_steps: int) -> None:
        """Note what a transfer started from: another run's settings, and how far it was. That run
        may go on later, or away."""
        keys = ("task", "method", "preset", "seed")
        source = {key: getattr(config, key) for key in keys}
        _write(self.path / "source.json", source | {"env_steps": env_steps})

    def open(self, config: Config, runtime: RuntimeConfig) -> None:
        """Make the folder for a new run, or check that it holds this very run.

        Raises UserError if it holds another one, or cannot be written.
        """
        try:
            if (self.path / "config.json").exists():
                self._check_same(config)
            elif self.path.is_dir() and any(self.path.iterdir()):
                raise UserError(f"{self.path} is not empty and not a run: choose another --logdir")
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self.path / "config.json", to_dict(config))
            _write(self.path / "run.json", provenance(runtime))
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path} ({error.strerror}): choose another --logdir"
            ) from error

    def _check_same(self, config: Config) -> None:
        changed = differences(self.read_config(), config)
        if changed:
            raise UserError(
                f"{self.path} holds another run ({'; '.join(changed)}): "
                "repeat its settings or choose another --logdir"
            )


def provenance(runtime: RuntimeConfig) -> dict[str, Any]:
    """Command, commit, threads, device and versions of this process."""
    return {
        "command": shlex.join(["lsp", *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "threads": torch.get_num_threads(),
        "device": runtime.device,
        "versions": {"python": platform.python_version()} | _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _git(*arguments: str) -> str | None:
    """Output of git in this package's checkout; None where there is none."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    os.replace(temporary, path)
