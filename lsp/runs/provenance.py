"""Where a run's numbers come from: command, commit, machine and versions."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lsp.backends.precision import precision
from lsp.config import Config, RuntimeConfig

PACKAGES = ("torch", "dm_control", "mujoco", "gymnasium", "numpy")


def provenance(config: Config, runtime: RuntimeConfig) -> dict[str, Any]:
    """Command, commit, threads, device and versions of this process, and the precision in which it
    imagines, which the CPU decides; HIRO imagines nothing."""
    imagined = None if config.method == "hiro" else str(precision(runtime)).removeprefix("torch.")
    return {
        "command": shlex.join(["lsp", *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "threads": torch.get_num_threads(),
        "device": runtime.device,
        "precision": imagined,
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
