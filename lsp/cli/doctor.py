"""What this machine offers a run, for `lsp doctor` and for bug reports."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from pathlib import Path

from lsp.backends.hardware import bf16_features, compiler
from lsp.config.requirements import unmet
from lsp.runs.versions import commit, is_dirty, package_version

PACKAGES = (
    "latent-skill-planning",
    "torch",
    "dm_control",
    "mujoco",
    "gymnasium",
    "numpy",
    "tyro",
    "safetensors",
)


NO_COMPILER = "none: updates and planning take several times as long (apt install g++)"


def report() -> list[tuple[str, str]]:
    """Name and value of everything worth knowing; what cannot be found out says so."""
    # First: loading the environments chooses the GL backend that is reported.
    rendering = _rendering()
    return [
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *((name, _version(name)) for name in PACKAGES),
        ("commit", _commit()),
        ("C++ compiler", compiler() or NO_COMPILER),
        *_compute(),
        ("GL backend", os.environ.get("MUJOCO_GL") or "MuJoCo's own choice"),
        ("rendering", rendering),
        ("free disk", f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB in {Path.cwd()}"),
    ]


def print_report() -> None:
    """Print the report, one line an item."""
    rows = report()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _version(package: str) -> str:
    """What is installed, and what is required where that is something else."""
    installed, problem = package_version(package) or "not installed", unmet(package)
    return f"{installed}, BUT {problem}" if problem else installed


def _commit() -> str:
    """The commit of the checkout this code runs from."""
    found = commit()
    if found is None:
        return "unknown (no git checkout, or no commit in it)"
    return f"{found}-dirty" if is_dirty() else found


def _compute() -> list[tuple[str, str]]:
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        # A torch that does not load is what somebody runs the doctor for.
        return [("compute", f"torch cannot be loaded: {error}")]
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [
        ("threads", f"{torch.get_num_threads()} used by torch, {os.cpu_count()} cores"),
        ("CPU for bf16", ", ".join(bf16_features()) or "neither AMX nor AVX-512 BF16"),
        ("GPU", ", ".join(gpus) or "none"),
    ]


def _rendering() -> str:
    try:
        rendering = importlib.import_module("lsp.envs.rendering")
        problem = rendering.rendering_problem()
    except Exception as error:
        # Whatever a graphics driver throws, the rest of the report must come out.
        return f"not checked: {error}"
    return f"impossible: {problem}" if problem else "works"
