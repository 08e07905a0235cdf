"""Which tests are quick, and what each process that runs tests needs."""

import gc
import os
import tempfile
from typing import Any

import pytest

# What `make quick` runs: the algorithm, whole files of it but for the tests that are long.
QUICK = {
    f"test_{name}.py"
    for name in (
        *("agent", "anchor", "backends", "behavior", "cem", "checked", "checkpoint"),
        *("distributions", "docs", "evaluation", "flops", "hardware", "hiro", "imagination"),
        *("imports", "methods", "metrics", "open_loop", "optimizer", "public_api", "relabel"),
        *("replay", "returns", "signature", "skills", "world_model"),
    )
}

# The key that runs are sealed with must not be the developer's own.
data_home = tempfile.TemporaryDirectory(prefix="lsp-tests-")
os.environ["XDG_DATA_HOME"] = data_home.name

# Importing makes few cycles and many objects, which the collector would go through again and again.
gc.disable()


def pytest_configure(config: Any) -> None:
    # Where xdist hands the tests to workers, this process needs neither lsp nor torch; the workers
    # wait for it.
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("checked")


def pytest_ignore_collect(collection_path: Any, config: Any) -> Any:
    # Half of the time would go into importing the other files.
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if is_test and config.option.markexpr == "quick":
        return collection_path.name not in QUICK or None
    return None


# Before xdist looks for groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Any) -> None:
    for item in items:
        long = any(item.get_closest_marker(name) for name in ("long", "slow"))
        if item.path.name in QUICK and not long:
            item.add_marker("quick")
        # One worker for those that share a fixture of their module, or each would make its own.
        fixtures = item._fixtureinfo.name2fixturedefs
        shared = [name for name, made in fixtures.items() if made[-1].scope == "module"]
        if shared and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {shared[0]}"))


def pytest_collection_finish() -> None:
    # An evaluation collects garbage, and goes through all that was imported otherwise.
    gc.freeze()
    gc.enable()
