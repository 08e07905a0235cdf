"""Statistics of a few seeds, against cases worked out by hand."""

import numpy as np
import pytest
import scipy.stats

import lsp
from lsp.report import statistics
from lsp.report.statistics import (
    Summary,
    iqm,
    permutation_test,
    probability_of_improvement,
    summary,
)


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


def test_the_best_of_all_relabellings_is_one_of_twenty() -> None:
    # All of ours win: so do the runs of 1 of C(6, 3) = 20 relabellings, and lose those of another.
    found = permutation_test([np.array([4.0, 5, 6])], [np.array([1.0, 2, 3])], "greater")
    assert found == (1.0, 1 / 20, True, 20)
    assert permutation_test([np.array([4.0, 5, 6])], [np.array([1.0, 2, 3])]).p == 2 / 20
    worst = permutation_test([np.array([1.0, 2, 3])], [np.array([4.0, 5, 6])], "greater")
    assert (worst.improvement, worst.p) == (0.0, 1.0)


def test_one_pair_out_of_order_is_counted_by_hand() -> None:
    # Ours {2, 4} against {1, 3}: 3 of 4 pairs. Of the 6 relabellings {3, 4} wins 4 and {2, 4} 3:
    # one-sided 2 of 6; {1, 2} wins 0 and {1, 3} 1: two-sided 4 of 6.
    ours, theirs = [np.array([2.0, 4])], [np.array([1.0, 3])]
    assert permutation_test(ours, theirs, "greater").p == pytest.approx(2 / 6)
    assert permutation_test(ours, theirs).p == pytest.approx(4 / 6)


def test_draws_count_half_in_every_relabelling() -> None:
    # {2} against {1, 2}: 0.75, as for either 2 of three; {1} has 0.
    found = permutation_test([np.array([2.0])], [np.array([1.0, 2])], "greater")
    assert found.improvement == 0.75
    assert found.p == pytest.approx(2 / 3)


def test_runs_are_relabelled_within_their_task() -> None:
    # Each task has two relabellings. Both won: 1 of 4. One won, one lost: as in all but one of 4.
    ones, twos = np.array([1.0]), np.array([2.0])
    assert permutation_test([twos, twos], [ones, ones], "greater").p == 1 / 4
    assert permutation_test([twos, ones], [ones, twos], "greater").p == 3 / 4
    # Across tasks there would be relabellings in which the runs of the easy task are all ours.
    easy = [np.array([1.0]), np.array([900.0])]
    assert permutation_test(easy, [np.array([0.0]), np.array([800.0])]).relabellings == 4


def test_the_tests_of_one_task_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0.5, 1, 5), rng.normal(0, 1, 4)
    wins = lambda x, y: float(probability_of_improvement([x], [y]).value)  # noqa: E731
    expected = scipy.stats.permutation_test(
        (ours, theirs), wins, n_resamples=np.inf, alternative="greater"
    )
    assert permutation_test([ours], [theirs], "greater").p == pytest.approx(expected.pvalue)


def test_many_relabellings_are_drawn_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # 20 · 20 = 400 in two tasks, of which 1 is at the end.
    tasks = [np.array([4.0, 5, 6])] * 2, [np.array([1.0, 2, 3])] * 2
    assert permutation_test(*tasks, "greater") == (1.0, 1 / 400, True, 400)
    monkeypatch.setattr(statistics, "MOST_RELABELLINGS", 399)
    few = permutation_test(*tasks, "greater")
    assert (few.exact, few.relabellings) == (False, 399)
    assert few.p >= 1 / 399
    monkeypatch.undo()
    found = permutation_test(tasks[0] * 3, tasks[1] * 3, "greater")
    assert (found.exact, found.relabellings) == (False, 200_000)
    assert found == permutation_test(tasks[0] * 3, tasks[1] * 3, "greater")  # the same draws
    assert found.p == 1 / 200_000  # 20 to the sixth are 64 million, of which none else was drawn


def test_drawn_and_counted_p_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [np.array([2.0, 4, 9]), np.array([1.0, 8, 3]), np.array([5.0, 6])]
    theirs = [np.array([1.0, 5, 3]), np.array([2.0, 4, 7]), np.array([4.0, 5])]
    counted = permutation_test(ours, theirs)
    monkeypatch.setattr(statistics, "MOST_RELABELLINGS", 2000)
    assert (counted.exact, counted.relabellings) == (True, 20 * 20 * 6)
    # The standard error of a share near 1/3 of 2000 draws is 0.011.
    assert permutation_test(ours, theirs).p == pytest.approx(counted.p, abs=0.04)


@pytest.mark.parametrize("tasks", [([], []), ([np.ones(0)], [np.ones(2)]), ([np.ones(1)], [])])
def test_a_test_of_nothing_is_refused(tasks: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    for compare in (permutation_test, probability_of_improvement):
        with pytest.raises(ValueError, match=r"needs a task|pair them"):
            compare(*tasks)


@pytest.mark.parametrize("tasks", [[], [np.ones(3), np.ones(0)]])
def test_nothing_stands_for_no_runs(tasks: list[np.ndarray]) -> None:
    for stands in (summary, iqm):
        with pytest.raises(ValueError, match="needs a task, and runs in each"):
            stands(tasks)


def test_statistics_are_reached_from_lsp() -> None:
    assert lsp.statistics.permutation_test is permutation_test


def test_below_five_runs_their_mean_stands_for_them_and_the_ends() -> None:
    # An interquartile mean of four would leave out the one that failed.
    found = summary([np.array([170.0, 600, 740, 870])])
    assert found == Summary(595.0, 170.0, 870.0, 4)
    assert found.text() == "mean of 4 595.0, lowest to highest 170.0 to 870.0"
    assert summary([np.array([170.0, 600]), np.array([740.0, 870])]) == found  # over tasks too


def test_from_five_runs_on_it_is_the_interquartile_mean() -> None:
    scores = np.array([0.0, 100, 110, 120, 1000])
    found = summary([scores])
    assert found == Summary(*iqm([scores]), 5)
    assert found.value == 110
    assert found.text().startswith("IQM of 5 110.0, 95 % bootstrap interval ")


def test_one_run_stands_for_itself() -> None:
    found = summary([np.array([7.0])])
    assert found.value == 7
    assert np.isnan([found.low, found.high]).all()
    assert found.text(2) == "7.00, one run"


def test_env_steps_are_summed_up_one_by_one() -> None:
    found = summary([np.array([[1.0, 3], [5, 5]])])
    assert [x.tolist() for x in found[:3]] == [[2, 5], [1, 5], [3, 5]]
