"""Freed memory stays with the process, until it is given back: seen from outside, as the system
counts it."""

import platform
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
from pathlib import Path
from lsp.backends import malloc

class Environment:  # a cycle, as dm_control's are
    def __init__(self):
        self.task, self.pieces = self, [b"x" * 100_000 for _ in range(1000)]

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

malloc.keep_freed()
before = megabytes()
several, between = [], []
for _ in range(2):
    several.append(Environment())
    between.append(bytearray(1000))  # which stays: the heap cannot just be cut short
full = megabytes()
del several
import gc
if {collected}:
    gc.collect()
kept = megabytes()
malloc.give_back()
print(full - before, kept - before, megabytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
@pytest.mark.parametrize("collected", [True, False])
def test_freed_memory_is_kept_until_it_is_given_back(collected: Any) -> None:
    program = PROGRAM.format(collected=collected)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    full, kept, left = map(float, done.stdout.split())
    assert full > 180
    assert kept > 0.9 * full
    assert left < 0.1 * full
