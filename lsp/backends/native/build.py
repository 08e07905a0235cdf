"""Compiling the kernels for this machine, once, and loading them."""

import hashlib
import os
import platform
import subprocess
import tempfile
from ctypes import CDLL
from functools import cache
from pathlib import Path

import torch

from lsp.backends.hardware import compiler, cpu_features, cpu_name

SOURCES = Path(__file__).parent
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"),
    # Of AVX-512 compilers use half where they fear for the clock.
    *(["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []),
    # Sums may be reordered, so that they become vector code; NaN stays NaN.
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"),
)
MINUTES = 5  # that a compiler may take before it is given up


class CannotBuild(Exception):
    """Why there are no kernels here, in a few words."""


@cache
def library() -> CDLL:
    """The kernels, compiled for this machine unless they already were.

    Raises CannotBuild without a compiler, where it fails, and on a PyTorch without what they need.
    """
    command = compiler()
    if command is None:
        raise CannotBuild("no C++ compiler is installed")
    torch_libraries = Path(torch.__file__).parent / "lib"
    linked = [f"-L{torch_libraries}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch_libraries}"]
    arguments = [command, *FLAGS, str(SOURCES / "kernels.cpp"), *linked]
    path = _folder() / f"kernels-{_key(command)}.so"
    if not path.exists():
        _compile(arguments, path)
    try:
        return CDLL(str(path))
    except OSError as error:
        raise CannotBuild(f"{path} cannot be loaded: {error}") from error


def _compile(arguments: list[str], path: Path) -> None:
    """Under another name first: two runs may start at once."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        try:
            done = subprocess.run(
                [*arguments, "-o", str(made)], capture_output=True, text=True, timeout=60 * MINUTES
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotBuild(f"{arguments[0]} did not run: {error}") from error
        if done.returncode:
            lines = done.stderr.splitlines()
            said = next((line for line in lines if "error" in line), "".join(lines[:1]))
            raise CannotBuild(f"{arguments[0]} failed: {said}")
        made.replace(path)


def _folder() -> Path:
    """Where compiled kernels are kept: the user's cache, or one of this process alone."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lsp"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="lsp-"))
    return home if os.access(home, os.W_OK) else Path(tempfile.mkdtemp(prefix="lsp-"))


def _key(command: str) -> str:
    """Of everything that the compiled code depends on."""
    seen = hashlib.sha256()
    for source in sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp"))):
        seen.update(source.read_bytes())
    machine = platform.machine(), cpu_name(), *sorted(cpu_features())
    for part in (command, *FLAGS, torch.__version__, torch.__file__, *machine):
        seen.update(part.encode())
    return seen.hexdigest()[:16]
