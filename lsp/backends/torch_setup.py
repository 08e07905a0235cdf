"""PyTorch, set up once for a process: threads, precision, memory."""

import warnings
from math import inf

import torch

from lsp.backends import malloc
from lsp.config import RuntimeConfig, no_count
from lsp.errors import UserError


def prepare_torch(runtime: RuntimeConfig) -> None:
    """Threads, precision, memory. Raises UserError for a device that is not there, and where
    another setting makes no sense."""
    if not 0 < runtime.patience < inf:  # NaN neither
        raise UserError(f"patience must be more than 0 seconds, not {runtime.patience}")
    if runtime.threads is not None:
        for complaint in no_count("threads", runtime.threads, 1):
            raise UserError(complaint)
        torch.set_num_threads(runtime.threads)
    # Saturated units make denormals, on which matrix products are many times slower.
    torch.set_flush_denormal(True)
    malloc.keep_freed()
    device = find_device(runtime.device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
        # Who allows bf16 allows what else is multiplied in TF32, which has three bits more.
        torch.set_float32_matmul_precision("high" if runtime.bf16 else "highest")
        torch.backends.cudnn.allow_tf32 = runtime.bf16
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # are refused on purpose
        # The same seed gives the same run.
        torch.backends.cudnn.deterministic = True


def find_device(name: str) -> torch.device:
    """Raises UserError where there is none."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}: choose cpu or cuda")
    index = device.index or 0
    if device.type == "cuda" and index >= torch.cuda.device_count():
        raise UserError(f"device {name!r}: PyTorch finds no GPU {index} here; use --device cpu")
    return device
