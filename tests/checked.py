"""Shapes and types are checked in every test: the hook must be in place before lsp is imported.

Checks take most of the time of a training, so what looks like something that has been checked in
a test is not checked again in it.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, wraps
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from unchecked import check_everything, unchecked

ARRAYS, SEQUENCES, PLAIN = (torch.Tensor, np.ndarray), (tuple, list), (int, str)
jaxtyped = jaxtyping.jaxtyped
checked: set[Any] = set()


def jaxtyped_once(typechecker: Any) -> Callable[[Any], Any]:
    """jaxtyping's decorator for calls that do not look like one that was checked before. What is
    never called is not decorated, and a function inside another is not with each call of that."""

    def decorate(function: Any) -> Any:
        if isinstance(function, type):
            return jaxtyped(function, typechecker=typechecker)
        decorated = cache(lambda: jaxtyped(function, typechecker=typechecker))

        @wraps(function)
        def called(*arguments: Any, **named: Any) -> Any:
            if jaxtyping.config.jaxtyping_disable:
                return function(*arguments, **named)
            call = function.__code__, look(arguments), look(named)
            if call in checked:
                return function(*arguments, **named)
            result = decorated()(*arguments, **named)
            checked.add(call)
            return result

        return called

    return decorate


def look(value: Any) -> Any:
    """Shapes and types of arrays, the values of what is plain, and which object all else is."""
    if isinstance(value, ARRAYS):
        return type(value), value.shape, value.dtype
    if isinstance(value, SEQUENCES):
        return type(value), *map(look, value)
    if isinstance(value, dict):
        return (*value.keys(), *map(look, value.values()))
    if isinstance(value, float):
        return float
    return (type(value), value) if isinstance(value, PLAIN) else id(value)


jaxtyping.jaxtyped = jaxtyped_once  # type: ignore[assignment]
jaxtyping.install_import_hook("lsp", "beartype.beartype")

import builders  # noqa: E402

from lsp.algorithm.agent import Agent  # noqa: E402
from lsp.algorithm.learner import Learner  # noqa: E402
from lsp.baselines.hiro import HiroLearner  # noqa: E402
from lsp.baselines.hiro_agent import HiroAgent  # noqa: E402

# The tests run in parallel processes that share the cores.
torch.set_num_threads(1)

# Even looking takes time: with the same settings so many are looked at in a test. The actions are
# more than K, so that a plan is made, held and made again.
FIRST = {(Learner, "update"): 3, (HiroLearner, "update"): 3}
FIRST |= {(Agent, "act"): 12, (HiroAgent, "act"): 12}
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


for (kind, name), count in FIRST.items():
    check_the_first(kind, name, count)


def pytest_runtest_setup() -> None:
    calls.clear()
    checked.clear()
    check_everything()


@pytest.fixture
def short_episodes() -> Any:
    """For fixtures of a module there is the function of the same name."""
    with builders.short_episodes():
        yield
