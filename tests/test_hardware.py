"""What is said of the CPU is what the system describes, and nothing where it describes none."""

from typing import Any

import pytest

from lsp.backends import hardware

EPYC = """processor\t: 0
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse avx2 avx512_bf16

processor\t: 1
model name\t: another
flags\t\t: fpu amx_bf16
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\nCPU part\t: 0xd40\n"


@pytest.fixture
def described(tmp_path: Any, monkeypatch: Any) -> Any:
    def describe(text: Any) -> None:
        path = tmp_path / "cpuinfo"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(hardware, "DESCRIPTION", path)
        hardware.cpu.cache_clear()

    yield describe
    hardware.cpu.cache_clear()


def test_the_first_core_stands_for_all(described: Any) -> None:
    described(EPYC)
    assert hardware.cpu_name() == "AMD EPYC 9R14"
    assert hardware.cpu_features() == {"fpu", "sse", "avx2", "avx512_bf16"}
    assert hardware.bf16_features() == ["avx512_bf16"]


def test_other_processors_name_their_features_otherwise(described: Any) -> None:
    described(ARM)
    assert hardware.cpu_features() == {"fp", "asimd", "bf16"}
    assert hardware.bf16_features() == []


def test_a_system_that_describes_nothing_has_no_features(described: Any) -> None:
    described(None)
    assert hardware.cpu_features() == frozenset()
    assert hardware.cpu_name()
