"""Where a run's numbers come from: command, commit, machine and versions."""

import platform
import shlex
import sys
from typing import Any

import torch

from lsp.backends.precision import precision
from lsp.config import Config, RuntimeConfig
from lsp.runs.versions import commit, is_dirty, package_version

PACKAGES = ("torch", "dm_control", "mujoco", "gymnasium", "numpy")


def provenance(config: Config, runtime: RuntimeConfig) -> dict[str, Any]:
    """Command, commit, threads, device and versions of this process, and the precision in which it
    imagines, which the CPU decides; HIRO imagines nothing."""
    imagined = None if config.method == "hiro" else str(precision(runtime)).removeprefix("torch.")
    return {
        "command": shlex.join(["lsp", *sys.argv[1:]]),
        "commit": commit(),
        "dirty": is_dirty(),
        "threads": torch.get_num_threads(),
        "device": runtime.device,
        "precision": imagined,
        "versions": {"python": platform.python_version()}
        | {package: package_version(package) or "unknown" for package in PACKAGES},
    }
