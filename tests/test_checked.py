"""The tests' own checks: wrong shapes and types are refused, also after right ones."""

from typing import Any

import jaxtyping
import pytest
import torch
from unchecked import unchecked

from lsp.algorithm.returns import discounted_sum
from lsp.models.layers import MLP

THREE, TWO = torch.ones(3), torch.ones(2)


@pytest.mark.parametrize("wrong", [TWO, torch.ones(3, dtype=torch.int32), torch.ones(3, 1), [1.0]])
def test_what_differs_from_a_right_call_is_refused(wrong: Any) -> None:
    for _ in range(2):
        discounted_sum(THREE, discount=THREE)
        with pytest.raises(jaxtyping.TypeCheckError):
            discounted_sum(THREE, discount=wrong)


def test_another_object_is_checked_anew() -> None:
    """What a network gives depends on its settings, not on what it is given alone."""
    right, wrong = MLP(2, [4], 3), MLP(2, [4], 3)
    wrong.faster = torch.sum
    assert right(TWO).shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError):
        wrong(TWO)


def test_nothing_is_checked_where_that_would_only_take_time() -> None:
    with unchecked():
        assert discounted_sum(THREE, torch.ones(3, 1)).shape == (3, 3)
