"""Shapes and types are checked in every test: the hook must be in place before lsp is imported."""

import os
import tempfile

import jaxtyping
import torch

jaxtyping.install_import_hook("lsp", "beartype.beartype")

from lsp.training.trainer import Trainer  # noqa: E402

# The tests run in parallel processes that share the cores.
torch.set_num_threads(1)

# The key that runs are sealed with must not be the developer's own.
data_home = tempfile.TemporaryDirectory(prefix="lsp-tests-")
os.environ["XDG_DATA_HOME"] = data_home.name

# Checking doubles the time of a training, whose later updates are the first ones over again, and
# so are those of a test's other trainings.
CHECKED_UPDATES = 3
_learn = Trainer._learn


def _learn_checked_at_first(trainer):
    if trainer.counters.updates >= CHECKED_UPDATES:
        jaxtyping.config.update("jaxtyping_disable", True)
    _learn(trainer)


Trainer._learn = _learn_checked_at_first


def pytest_runtest_setup():
    jaxtyping.config.update("jaxtyping_disable", False)
