"""In which precision matrix products are computed."""

import torch

from lsp.backends.hardware import uses_bf16
from lsp.config import RuntimeConfig


def precision(runtime: RuntimeConfig) -> torch.dtype:
    """Of matrix products in planning and learning, here and by the user's settings."""
    return torch.bfloat16 if uses_bf16(runtime) else torch.float32
