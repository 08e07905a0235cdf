"""λ-returns against numbers worked out by hand."""

from typing import Any

import pytest
import torch

from lsp.algorithm.returns import discounted_sum, lambda_return

REWARD = torch.tensor([1.0, 2.0, 3.0])  # r(s_1), r(s_2), r(s_3)
VALUE = torch.tensor([10.0, 20.0, 30.0])  # v(s_1), v(s_2), v(s_3)
HALF = torch.full((3,), 0.5)


@pytest.mark.parametrize(
    ("lambda_", "by_hand"),
    [
        # One step and the value of where it leads: r + γ v.
        (0.0, [1 + 0.5 * 10, 2 + 0.5 * 20, 3 + 0.5 * 30]),
        # All rewards, and the value at the very end alone.
        (1.0, [1 + 0.5 * (2 + 0.5 * (3 + 0.5 * 30)), 2 + 0.5 * (3 + 0.5 * 30), 3 + 0.5 * 30]),
        # G_2 = 18; G_1 = 2 + ½ (½·20 + ½·18) = 11.5; G_0 = 1 + ½ (½·10 + ½·11.5) = 6.375.
        (0.5, [6.375, 11.5, 18.0]),
    ],
)
def test_the_return_is_the_one_worked_out_by_hand(lambda_: Any, by_hand: Any) -> None:
    torch.testing.assert_close(lambda_return(REWARD, VALUE, HALF, lambda_), torch.tensor(by_hand))


def test_the_last_reward_counts() -> None:
    zero = torch.zeros(10)
    reward = torch.zeros(10)
    reward[-1] = 1.0
    returns = lambda_return(reward, zero, torch.full((10,), 0.99), 0.95)
    assert returns[-1].item() == 1.0
    assert returns[0].item() == pytest.approx((0.99 * 0.95) ** 9)


def test_nothing_after_the_end_of_an_episode_counts() -> None:
    ends_at_second = torch.tensor([0.5, 0.0, 0.5])
    returns = lambda_return(REWARD, VALUE, ends_at_second, 0.5)
    # G_1 = 2, the reward of arriving at the end; G_0 = 1 + ½ (½·10 + ½·2) = 4.
    torch.testing.assert_close(returns, torch.tensor([4.0, 2.0, 18.0]))


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.95, 1.0])
def test_a_value_that_is_right_is_returned_whatever_lambda(lambda_: Any) -> None:
    reward, value = torch.full((7, 2), 0.01 * 5), torch.full((7, 2), 5.0)
    returns = lambda_return(reward, value, torch.full((7, 2), 0.99), lambda_)
    torch.testing.assert_close(returns, value)


def test_without_a_value_rewards_count_to_the_end_of_the_rollout() -> None:
    # G_2 = 3; G_1 = 2 + ½·3 = 3.5; G_0 = 1 + ½·3.5 = 2.75.
    torch.testing.assert_close(discounted_sum(REWARD, HALF), torch.tensor([2.75, 3.5, 3.0]))
