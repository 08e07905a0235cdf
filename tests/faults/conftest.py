"""Figures that the tests of faults measure, printed at the end of `make faults` and `make soak`."""

from collections.abc import Iterator
from typing import Any

import pytest
from processes import FULL
from unchecked import unchecked


@pytest.fixture(autouse=True)
def no_checks() -> Iterator[None]:
    """Of shapes and types, in runs in this process: other tests check them."""
    with unchecked():
        yield


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of runs in this process take longer than what is tested."""
    monkeypatch.setattr("lsp.cli.commands.Train._report", lambda self, logdir: None)


@pytest.fixture(autouse=True, scope="module")
def a_file_for_each_episode() -> Iterator[None]:
    """Of runs in this process, so that each can be damaged alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsp.training.replay.SHORT", 0)
        yield


@pytest.fixture
def count() -> Any:
    """`count(few, many)`: how often to try something, in `make test` and in `make faults`."""
    return lambda few, many: many if FULL else few


@pytest.fixture
def figure(record_property: Any) -> Any:
    """`figure(row, text)`: what docs/developer/reliability.md reports of a row of its table."""
    return lambda row, text: record_property("figure", f"row {row:>2}: {text}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    figures = {value for r in reports for name, value in r.user_properties if name == "figure"}
    if figures:
        terminalreporter.section("figures")
        for line in sorted(figures):
            terminalreporter.write_line(line)
