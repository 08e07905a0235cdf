"""Normals, squashed Normals and the soft clamp, by hand and against torch.distributions."""

from math import log, pi
from typing import Any

import pytest
import torch
from builders import seeded
from torch import distributions

from lsp.models.distributions import Normal, TanhNormal, softly_clamped_std


def drawn(*shape: Any, seed: Any = 0) -> Any:
    return torch.randn(shape, generator=seeded(seed))


def test_kl_is_the_one_worked_out_by_hand() -> None:
    one = Normal(torch.tensor([1.0]), torch.tensor([2.0]))
    other = Normal(torch.tensor([0.0]), torch.tensor([1.0]))
    # ln(1/2) + (2² + 1²) / 2 - 1/2, and the other way round ln 2 + (1² + 1²) / (2·2²) - 1/2
    assert one.kl(other).item() == pytest.approx(2 - log(2))
    assert other.kl(one).item() == pytest.approx(log(2) - 0.25)


def test_kl_adds_up_over_the_last_axis() -> None:
    one = Normal(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[2.0, 1.0], [1.0, 1.0]]))
    other = Normal(torch.zeros(2, 2), torch.ones(2, 2))
    torch.testing.assert_close(one.kl(other), torch.tensor([2 - log(2), 0.0]))


def test_kl_and_log_prob_agree_with_torch() -> None:
    mean, other_mean, value = drawn(4, 3), drawn(4, 3, seed=1), drawn(4, 3, seed=2)
    std, other_std = drawn(4, 3, seed=3).exp(), drawn(4, 3, seed=4).exp()
    theirs = distributions.Normal(mean, std)
    kl = distributions.kl_divergence(theirs, distributions.Normal(other_mean, other_std)).sum(-1)
    torch.testing.assert_close(Normal(mean, std).kl(Normal(other_mean, other_std)), kl)
    torch.testing.assert_close(Normal(mean, std).log_prob(value), theirs.log_prob(value).sum(-1))


def test_a_sample_is_mean_plus_std_times_noise() -> None:
    normal = Normal(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 0.5]))
    noise = torch.tensor([1.0, -2.0])
    torch.testing.assert_close(normal.sample(noise), torch.tensor([3.0, -2.0]))
    squashed = TanhNormal(*normal).sample(noise)
    torch.testing.assert_close(squashed, torch.tensor([3.0, -2.0]).tanh())


def squashed_density(mean: Any, std: Any, actions: Any) -> Any:
    squash = distributions.TanhTransform(cache_size=1)
    base = distributions.Normal(mean.double(), std.double())
    return distributions.TransformedDistribution(base, squash).log_prob(actions.double()).sum(-1)


def test_the_likeliest_sample_has_the_highest_density_of_all() -> None:
    mean, std, noise = drawn(5, 2), drawn(5, 2, seed=1).mul(0.3).exp(), drawn(40, 5, 2, seed=2)
    normal = TanhNormal(mean, std)
    density = squashed_density(mean, std, normal.sample(noise))
    likeliest = normal.likeliest(noise)
    torch.testing.assert_close(squashed_density(mean, std, likeliest), density.max(0).values)


def test_each_row_has_its_own_likeliest_sample() -> None:
    mean, noise = torch.tensor([[0.5], [-0.5]]), torch.tensor([[[0.0], [3.0]], [[3.0], [0.0]]])
    chosen = TanhNormal(mean, torch.full((2, 1), 0.1)).likeliest(noise)
    torch.testing.assert_close(chosen, mean.tanh())


def test_the_likeliest_action_of_a_wide_policy_is_near_the_edge_and_not_in_the_middle() -> None:
    normal = TanhNormal(torch.tensor([[0.1]]), torch.tensor([[5.0]]))
    assert normal.likeliest(drawn(100, 1, 1)).abs().item() > 0.99
    assert normal.mode().item() == pytest.approx(0.0997, abs=1e-3)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.05), (0.3, 0.87), (-1.0, 2.0)])
def test_the_estimated_entropy_of_squashed_actions_is_their_entropy(mean: Any, std: Any) -> None:
    normal = TanhNormal(torch.tensor([mean, 0.0]), torch.tensor([std, 0.5]))
    found = normal.entropy(drawn(100_000, 2)).mean().item()
    # -∫ p log p over u, of which the action is tanh.
    expected = 0.0
    for m, s in zip(*(x.double() for x in normal), strict=True):
        u = torch.linspace(-8, 8, 4001, dtype=torch.float64) * s + m
        p = torch.exp(-0.5 * ((u - m) / s) ** 2) / (s * (2 * pi) ** 0.5)
        slope = 1 - u.tanh() ** 2
        expected -= torch.trapezoid(p * (p / slope).log(), u).item()
    assert found == pytest.approx(expected, abs=0.02)


def test_a_squashed_normal_as_wide_as_its_range_has_less_entropy_when_wider() -> None:
    def entropy(std: Any) -> Any:
        return TanhNormal(torch.zeros(1), torch.tensor([std])).entropy(drawn(10_000, 1)).mean()

    assert entropy(0.5) < entropy(0.9) > entropy(2.0) > entropy(5.0)


def test_the_soft_clamp_keeps_the_std_in_bounds() -> None:
    log_std = torch.linspace(-20, 20, 401)
    std = softly_clamped_std(log_std, (0.1, 1.5))
    # The lower bound is met; the upper one is overshot by the lower, as in Chua 2018.
    assert std.min().item() == pytest.approx(0.1, abs=1e-6)
    assert std.max().item() == pytest.approx(1.5 + 0.1, abs=1e-6)
    assert (std.diff() >= 0).all()


def test_the_soft_clamp_leaves_the_middle_almost_alone() -> None:
    std = softly_clamped_std(torch.tensor([log(0.4)]), (0.001, 1000.0))
    assert std.item() == pytest.approx(0.4, rel=0.01)


def test_the_soft_clamp_lets_gradients_through_outside_the_bounds() -> None:
    log_std = torch.tensor([log(0.1) - 3, log(1.5) + 3], requires_grad=True)
    softly_clamped_std(log_std, (0.1, 1.5)).sum().backward()
    assert log_std.grad is not None
    assert (log_std.grad > 1e-3).all()
