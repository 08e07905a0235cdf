"""Shapes and types are checked in every test: the hook must be in place before lsp is imported."""

import gc
import os
import tempfile
from collections import Counter
from contextlib import nullcontext
from functools import wraps
from typing import Any

import jaxtyping
import pytest
import torch

jaxtyping.install_import_hook("lsp", "beartype.beartype")

import builders  # noqa: E402
from unchecked import check_everything, unchecked  # noqa: E402

from lsp.algorithm.agent import Agent  # noqa: E402
from lsp.algorithm.learner import Learner  # noqa: E402
from lsp.baselines.hiro import HiroLearner  # noqa: E402
from lsp.baselines.hiro_agent import HiroAgent  # noqa: E402

# What `make quick` runs: the algorithm, whole files of it but for the tests that are long.
QUICK = {
    f"test_{name}.py"
    for name in (
        *("agent", "anchor", "backends", "behavior", "cem", "checkpoint", "distributions", "docs"),
        *("evaluation", "flops", "hardware", "hiro", "imagination", "imports", "methods"),
        *("metrics", "open_loop", "optimizer", "public_api", "relabel", "replay", "returns"),
        *("signature", "skills", "statistics", "world_model"),
    )
}

# The tests run in parallel processes that share the cores.
torch.set_num_threads(1)

# The key that runs are sealed with must not be the developer's own.
data_home = tempfile.TemporaryDirectory(prefix="lsp-tests-")
os.environ["XDG_DATA_HOME"] = data_home.name

# Checks take most of the time of a training, whose later updates and actions are the first ones
# over again: with the same settings so many are checked in a test. The actions are more than K,
# so that a plan is made, held and made again.
CHECKED = {(Learner, "update"): 3, (HiroLearner, "update"): 3}
CHECKED |= {(Agent, "act"): 12, (HiroAgent, "act"): 12}
calls: Counter[Any] = Counter()


def check_the_first(kind: Any, name: Any, count: Any) -> None:
    method = getattr(kind, name)

    @wraps(method)
    def called(self: Any, *arguments: Any, **named: Any) -> Any:
        settings = kind, self.networks.config, getattr(self, "mode", None)
        calls[settings] += 1
        with nullcontext() if calls[settings] <= count else unchecked():
            return method(self, *arguments, **named)

    setattr(kind, name, called)


for (kind, name), count in CHECKED.items():
    check_the_first(kind, name, count)


def pytest_ignore_collect(collection_path: Any, config: Any) -> Any:
    # Half of the time would go into importing the other files.
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if is_test and config.option.markexpr == "quick":
        return collection_path.name not in QUICK or None
    return None


def pytest_collection_modifyitems(items: Any) -> None:
    for item in items:
        long = any(item.get_closest_marker(name) for name in ("long", "slow"))
        if item.path.name in QUICK and not long:
            item.add_marker("quick")


def pytest_runtest_setup() -> None:
    calls.clear()
    check_everything()


def pytest_collection_finish() -> None:
    # An evaluation collects garbage, and goes through all that was imported otherwise.
    gc.freeze()


@pytest.fixture
def short_episodes() -> Any:
    """For fixtures of a module there is the function of the same name."""
    with builders.short_episodes():
        yield
