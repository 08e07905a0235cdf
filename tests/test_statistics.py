"""Statistics of a few seeds, against cases worked out by hand."""

import numpy as np
import pytest

from lsp.report.statistics import iqm, probability_of_improvement


def test_the_middle_half_is_averaged() -> None:
    # Of eight scores the lowest two and the highest two are left out.
    scores = np.array([100.0, 3, 4, 5, 6, 1, 2, -50])
    assert iqm([scores]).value == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_scores_of_all_tasks_are_trimmed_together() -> None:
    tasks = [np.array([0.0, 1, 2, 3]), np.array([10.0, 11, 12, 13])]
    assert iqm(tasks).value == pytest.approx((2 + 3 + 10 + 11) / 4)


def test_each_env_step_has_its_own_interval() -> None:
    scores = np.array([[1.0, 1, 1], [0, 5, 10]])
    found = iqm([scores])
    np.testing.assert_allclose(found.value, [1, 5])
    np.testing.assert_allclose([found.low[0], found.high[0]], [1, 1])
    # Of three drawn from {0, 5, 10} with replacement, all are 0 in 1 of 27: more than 2.5 %.
    np.testing.assert_allclose([found.low[1], found.high[1]], [0, 10])


def test_runs_are_drawn_within_their_task() -> None:
    # Each task's runs are alike: however they are drawn, the mean over both stays.
    found = iqm([np.full(2, 3.0), np.full(2, 9.0)])
    assert (found.low, found.high) == (6, 6)


def test_one_run_has_no_interval() -> None:
    found = iqm([np.array([7.0])])
    assert found.value == 7
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_a_lone_run_among_others_counts_once() -> None:
    found = iqm([np.array([[9.0], [6.0]]), np.array([[0.0, 3.0], [3.0, 3.0]])])
    # Of two drawn from {0, 3} with replacement, both are alike in half of all draws.
    np.testing.assert_allclose(found.value, [4, 4])
    np.testing.assert_allclose(found.low, [3, 4])
    np.testing.assert_allclose(found.high, [5, 4])


def test_the_probability_of_improvement_counts_pairs() -> None:
    # Of 3 · 2 pairs ours wins (3, 2), (5, 2) and (5, 4), and draws (2, 2).
    found = probability_of_improvement([np.array([2.0, 3, 5])], [np.array([2.0, 4])])
    assert found.value == pytest.approx(3.5 / 6)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_probability_of_improvement_is_averaged_over_tasks() -> None:
    ours, theirs = [np.ones(2), np.zeros(2)], [np.zeros(2), np.zeros(2)]
    assert tuple(probability_of_improvement(ours, theirs)) == (0.75, 0.75, 0.75)
