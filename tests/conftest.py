"""Shapes and types are checked in every test: the hook must be in place before lsp is imported."""

import os
import tempfile

import torch
from jaxtyping import install_import_hook

install_import_hook("lsp", "beartype.beartype")

# The tests run in parallel processes that share the cores.
torch.set_num_threads(1)

# The key that runs are sealed with must not be the developer's own.
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="lsp-tests-")
