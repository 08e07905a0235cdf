"""What the CPU here is and can, and which compiler there is for it."""

import platform
import shutil
from functools import cache
from pathlib import Path

from lsp.config import RuntimeConfig

DESCRIPTION = Path("/proc/cpuinfo")


@cache
def cpu() -> dict[str, str]:
    """Of the first core, as Linux describes it (`model name`, `flags`, ...); elsewhere nothing."""
    try:
        first = DESCRIPTION.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def cpu_name() -> str:
    """Of its model, or of its family where that is all there is."""
    return cpu().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> frozenset[str]:
    """Its instruction sets, as Linux spells them; none on other systems."""
    description = cpu()
    return frozenset(description.get("flags", description.get("Features", "")).split())


def bf16_features() -> list[str]:
    """The instruction sets that make bf16 fast: AMX most, AVX-512 BF16 less."""
    return [name for name in ("amx_bf16", "avx512_bf16") if name in cpu_features()]


def uses_bf16(runtime: RuntimeConfig) -> bool:
    """Whether matrices are multiplied in bf16, here and by the user's settings."""
    return runtime.bf16 and (runtime.device.startswith("cuda") or bool(bf16_features()))


def compiler() -> str | None:
    """A C++ compiler, if there is one."""
    return next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
