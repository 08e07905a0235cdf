"""In which precision matrix products are computed."""

import torch

from lsp.backends.hardware import bf16_features
from lsp.config import RuntimeConfig


def precision(runtime: RuntimeConfig) -> torch.dtype:
    """Of matrix products in planning and learning, here and by the user's settings."""
    hardware = runtime.device.startswith("cuda") or bool(bf16_features())
    return torch.bfloat16 if runtime.bf16 and hardware else torch.float32
