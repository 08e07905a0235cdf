"""Compiling the kernels for this machine, once, and loading them."""

import hashlib
import platform
import subprocess
import tempfile
from ctypes import CDLL
from functools import cache, partial
from pathlib import Path

import torch

from lsp.backends.hardware import compiler, cpu_features, cpu_name
from lsp.backends.native.kernel_cache import Unusable, kept
from lsp.errors import warn

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
    build = partial(_compile, [command, *FLAGS, str(SOURCES / "kernels.cpp"), *linked])
    name = f"kernels-{_key(command)}.so"
    try:
        return _load(kept(name, build))
    except Unusable as reason:
        warn(f"{reason}: the kernels are compiled for this process alone, which takes seconds")
    with tempfile.TemporaryDirectory(prefix="lsp-") as folder:
        build(Path(folder) / name)
        return _load(Path(folder) / name)


def _load(path: Path) -> CDLL:
    try:
        return CDLL(str(path))
    except OSError as error:
        raise CannotBuild(f"{path} cannot be loaded: {error}") from error


def _compile(arguments: list[str], path: Path) -> None:
    """Raises CannotBuild where there is no file at `path` afterwards, or the compiler fails."""
    try:
        done = subprocess.run(
            [*arguments, "-o", str(path)], capture_output=True, text=True, timeout=60 * MINUTES
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{arguments[0]} did not run: {error}") from error
    if done.returncode:
        lines = done.stderr.splitlines()
        said = next((line for line in lines if "error" in line), "".join(lines[:1]))
        raise CannotBuild(f"{arguments[0]} failed: {said}")
    if not path.is_file() or not path.stat().st_size:
        raise CannotBuild(f"{arguments[0]} ended well and wrote nothing")


def _key(command: str) -> str:
    """Of everything that the compiled code depends on."""
    seen = hashlib.sha256()
    for source in sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp"))):
        seen.update(source.read_bytes())
    machine = platform.machine(), cpu_name(), *sorted(cpu_features())
    for part in (command, *FLAGS, torch.__version__, torch.__file__, *machine):
        seen.update(part.encode())
    return seen.hexdigest()[:16]
