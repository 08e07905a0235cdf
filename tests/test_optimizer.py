import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from lsp.algorithm.optimizer import Adam


def gradient_steps(optimizer: Any, parameter: Any) -> None:
    for step in range(5):
        optimizer.zero_grad()
        (parameter**2 * (step + 1)).sum().backward()
        optimizer.step()


def test_it_is_the_librarys_own() -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    gradient_steps(Adam([ours], 0.1, 1e-5), ours)
    gradient_steps(torch.optim.Adam([theirs], 0.1, eps=1e-5, fused=True), theirs)
    assert torch.equal(ours, theirs)


def test_it_goes_on_from_a_saved_state() -> None:
    unbroken, broken = (nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    first, second = Adam([unbroken], 0.1, 1e-5), Adam([broken], 0.1, 1e-5)
    gradient_steps(first, unbroken)
    gradient_steps(second, broken)
    resumed = Adam([broken], 0.1, 1e-5)
    resumed.load_state_dict(second.state_dict())
    gradient_steps(first, unbroken)
    gradient_steps(resumed, broken)
    assert torch.equal(unbroken, broken)


@pytest.mark.long
def test_it_imports_no_compiler() -> None:
    steps = """
import sys, torch
from lsp.algorithm.optimizer import Adam
parameter = torch.nn.Parameter(torch.ones(3))
optimizer = Adam([parameter], 0.1, 1e-5)
optimizer.zero_grad()
parameter.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
assert parameter[0] < 1
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", steps], check=False).returncode == 0
