"""The machine's own speed: at matrix products, and at moving memory."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from lsp.config import Config

BLOCK = 2**26  # bytes that are copied, more than any cache holds
GEMM_SHAPES = {"paper": (2500, 400, 400), "small": (512, 128, 128)}
"""Rows, inputs and outputs of the matrix product whose speed is taken for a CPU's peak."""
GPU_GEMM_SHAPE = (8192, 8192, 8192)
"""The same of a GPU, which smaller ones do not fill."""


def wait(device: str) -> None:
    """Until a GPU has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def milliseconds(work: Callable[[], Any], device: str) -> float:
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return 1000 * (time.perf_counter() - began)


class Gemm:
    """The machine's own speed at one matrix product, the best seen between updates.

    On a CPU PyTorch has two: that of its BLAS, which on AMD's processors is half as fast in fp32,
    and oneDNN's. The faster is the peak.
    """

    def __init__(self, config: Config, dtype: torch.dtype, device: str):
        wide = config.model.deter > GEMM_SHAPES["small"][1]
        on_gpu = device.startswith("cuda")
        self.shape = GPU_GEMM_SHAPE if on_gpu else GEMM_SHAPES["paper" if wide else "small"]
        rows, inputs, outputs = self.shape
        self.dtype, self.device = dtype, device
        self.left = torch.randn(rows, inputs, dtype=dtype, device=device)
        self.right = torch.randn(inputs, outputs, dtype=dtype, device=device)
        self.out = torch.empty(rows, outputs, dtype=dtype, device=device)
        self.products: list[Callable[[], Any]] = [
            partial(torch.mm, self.left, self.right, out=self.out)
        ]
        if not on_gpu and torch.backends.mkldnn.is_available():
            weight = self.right.T.contiguous().to_mkldnn()
            self.products.append(partial(F.linear, self.left.to_mkldnn(), weight))
        self.peak = 0.0

    def measure(self, count: int = 20) -> None:
        """Take the speed of so many products in a row, if none before was faster."""
        flop = 2 * count * self.shape[0] * self.shape[1] * self.shape[2]
        for product in self.products:
            took = milliseconds(partial(_repeat, product, count), self.device)
            self.peak = max(self.peak, flop / (took / 1000) / 1e9)


@torch.no_grad()
def _repeat(product: Callable[[], Any], count: int) -> None:
    for _ in range(count):
        product()


class Memory:
    """How fast this machine copies, the best seen; bytes read and written count."""

    def __init__(self, device: str):
        self.device = device
        self.source = torch.ones(BLOCK // 4, device=device)
        self.target = torch.empty_like(self.source)
        self.peak = 0.0

    def measure(self) -> None:
        """Take the speed of a copy, in GB a second, if none before was faster."""
        took = milliseconds(partial(self.target.copy_, self.source), self.device)
        self.peak = max(self.peak, 2 * BLOCK / (took / 1000) / 1e9)
