"""What a few seeds say: the one summary of tables and pictures, and comparisons of methods.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from collections.abc import Sequence
from itertools import combinations
from math import comb, prod
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

CONFIDENCE = 0.95
RESAMPLES = 2000
MOST_RELABELLINGS = 200_000
"""Of a permutation test: it is exact up to here, and draws so many beyond."""

FEW = 5
"""From so many runs on the interquartile mean and its bootstrap interval stand for them. Of fewer,
trimming would leave out a run that failed, and so few can be told one by one: their mean, and the
lowest and the highest."""

Scores = Float[np.ndarray, "*_batch _runs"]
"""Of the runs of one task, or of one env step of it; the batch is of independent questions."""


class Estimate(NamedTuple):
    """A value and the ends of its interval; those are NaN where no task has two runs."""

    value: Any
    low: Any
    high: Any


class Summary(NamedTuple):
    """What stands for some runs, in text, tables and pictures alike.

    Attributes:
        value: their mean, or from FEW runs on their interquartile mean.
        low: the lowest, or the lower end of the 95 % bootstrap interval; NaN for one run.
        high: the highest, or the upper end.
        runs: how many they are.
    """

    value: Any
    low: Any
    high: Any
    runs: int

    @property
    def statistic(self) -> str:
        """What `value` is."""
        return "mean" if self.runs < FEW else "IQM"

    @property
    def interval(self) -> str:
        """What `low` and `high` are."""
        return "lowest to highest" if self.runs < FEW else "95 % bootstrap interval"

    def text(self, digits: int = 1) -> str:
        """`mean of 4 595.2, lowest to highest 170.1 to 869.1`, of a single question."""
        value, low, high = (f"{float(x):.{digits}f}" for x in self[:3])
        if self.runs == 1:
            return f"{value}, one run"
        return f"{self.statistic} of {self.runs} {value}, {self.interval} {low} to {high}"


def summary(tasks: Sequence[Scores]) -> Summary:
    """What stands for all runs of some tasks.

    Below FEW runs, those of all tasks counted, it is their mean, lowest and highest; from there on
    their interquartile mean and its interval (`iqm`).

    Raises ValueError where there is no task, or a task has no runs.
    """
    _refuse_no_runs(tasks)
    scores = np.concatenate([np.asarray(x, float) for x in tasks], axis=-1)
    runs = scores.shape[-1]
    if runs >= FEW:
        return Summary(*iqm(tasks), runs)
    alone = np.full(scores.shape[:-1], np.nan)
    low, high = (alone, alone) if runs == 1 else (scores.min(-1), scores.max(-1))
    return Summary(scores.mean(-1), low, high, runs)


def iqm(tasks: Sequence[Scores]) -> Estimate:
    """Mean of the middle half of all scores, and its interval.

    Runs are resampled within each task (stratified). Of fewer than four scores nothing is trimmed.
    Raises ValueError as `summary`.
    """
    _refuse_no_runs(tasks)
    return _estimate(_trimmed_mean, tasks)


def probability_of_improvement(ours: Sequence[Scores], theirs: Sequence[Scores]) -> Estimate:
    """That a run of ours beats one of theirs, averaged over tasks; a draw counts half.

    Raises ValueError as `permutation_test`.
    """
    _refuse_no_pairs(ours, theirs)
    count = len(ours)

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = zip(samples[:count], samples[count:], strict=True)
        return np.asarray(np.mean([_wins(x, y) for x, y in pairs], axis=0))

    return _estimate(statistic, [*ours, *theirs])


class Permutation(NamedTuple):
    """What a permutation test found.

    Attributes:
        improvement: the probability of improvement, averaged over tasks.
        p: how probable one at least as far from 1/2 (or as high) is where labels mean nothing.
        exact: whether all relabellings were counted, or so many drawn.
        relabellings: how many were counted, what was observed included.
    """

    improvement: float
    p: float
    exact: bool
    relabellings: int


def permutation_test(
    ours: Sequence[Float[np.ndarray, " _ours"]],
    theirs: Sequence[Float[np.ndarray, " _theirs"]],
    alternative: Literal["two-sided", "greater"] = "two-sided",
) -> Permutation:
    """Whether ours and theirs could be runs of one method; stratified: runs stay in their task.

    The statistic is the probability of improvement, so that tasks of every scale count alike. All
    relabellings are counted where there are at most MOST_RELABELLINGS. Beyond, so many are drawn,
    always the same ones, and what was observed is one of them, which keeps p above 0.

    Args:
        ours: scores of our runs, an array a task.
        theirs: scores of the others' runs on the same tasks.
        alternative: `greater` asks whether ours are better, `two-sided` whether they differ.

    Returns:
        The statistic, p, and whether it is exact.

    Raises:
        ValueError: there is no task, a task has no runs of one side, or the tasks are not paired.
    """
    _refuse_no_pairs(ours, theirs)
    pairs = list(zip(ours, theirs))
    observed = float(np.mean([_wins(x, y) for x, y in pairs]))
    count = prod(comb(len(x) + len(y), len(x)) for x, y in pairs)
    exact = count <= MOST_RELABELLINGS
    found = _all_relabelled(pairs) if exact else _some_relabelled(pairs)
    found = np.append(found, [] if exact else observed)
    tail = found if alternative == "greater" else np.abs(found - 0.5)
    least = observed if alternative == "greater" else abs(observed - 0.5)
    # Sums of the same wins in another order may differ in their last digit.
    return Permutation(observed, float(np.mean(tail >= least - 1e-9)), exact, len(found))


_Pair = tuple[np.ndarray, np.ndarray]


def _all_relabelled(pairs: Sequence[_Pair]) -> Float[np.ndarray, " relabellings"]:
    """The statistic under every relabelling, tasks crossed."""
    sums = np.zeros(1)
    for ours, theirs in pairs:
        runs = len(ours) + len(theirs)
        chosen = np.zeros((comb(runs, len(ours)), runs), bool)
        for row, members in zip(chosen, combinations(range(runs), len(ours))):
            row[list(members)] = True
        wins = _relabelled_wins(np.concatenate([ours, theirs]), chosen)
        sums = np.add.outer(sums, wins).ravel()
    return sums / len(pairs)


def _some_relabelled(pairs: Sequence[_Pair]) -> Float[np.ndarray, " relabellings"]:
    """The statistic under random relabellings, one fewer than MOST_RELABELLINGS."""
    rng, sums = np.random.default_rng(0), np.zeros(MOST_RELABELLINGS - 1)
    for ours, theirs in pairs:
        places = rng.random((len(sums), len(ours) + len(theirs))).argsort(1)
        sums += _relabelled_wins(np.concatenate([ours, theirs]), places < len(ours))
    return sums / len(pairs)


def _relabelled_wins(
    scores: Float[np.ndarray, " runs"], chosen: Bool[np.ndarray, "relabellings runs"]
) -> Float[np.ndarray, " relabellings"]:
    """The probability of improvement of the chosen runs over the others."""
    wins = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
    won = ((chosen @ wins) * ~chosen).sum(1)
    return np.asarray(won / (chosen.sum(1) * (~chosen).sum(1)))


def _refuse_no_runs(tasks: Sequence[Scores]) -> None:
    if not len(tasks) or any(np.shape(x)[-1:] in ((), (0,)) for x in tasks):
        raise ValueError("a summary needs a task, and runs in each: give a list of scores a task")


def _refuse_no_pairs(ours: Sequence[Scores], theirs: Sequence[Scores]) -> None:
    if len(ours) != len(theirs):
        raise ValueError(f"ours are of {len(ours)} tasks and theirs of {len(theirs)}: pair them")
    if not len(ours) or any(np.shape(x)[-1:] in ((), (0,)) for x in (*ours, *theirs)):
        raise ValueError("a comparison needs a task, and runs of both sides in each")


# Only of FEW runs and more is anything computed with scipy.stats, which takes half a second to
# import: every training draws its curve.


def _trimmed_mean(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(np.concatenate(samples, axis=-1), 0.25, axis=-1))


def _wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    ours, theirs = ours[..., :, None], theirs[..., None, :]
    return np.asarray(np.mean((ours > theirs) + 0.5 * (ours == theirs), axis=(-2, -1)))


def _estimate(statistic: Any, samples: Sequence[Scores]) -> Estimate:
    samples = [np.asarray(x, float) for x in samples]
    value = statistic(*samples)
    from scipy.stats import bootstrap

    drawn = [x for x in samples if x.shape[-1] > 1]
    if not drawn:
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))

    def of_redrawn(*resamples: np.ndarray, axis: int = -1) -> np.ndarray:
        """A lone run is drawn with certainty, and once."""
        several, draws = iter(resamples), resamples[0].shape[:-1]
        tasks = [
            next(several) if x.shape[-1] > 1 else np.broadcast_to(x[..., None, :], (*draws, 1))
            for x in samples
        ]
        return np.asarray(statistic(*tasks))

    found = bootstrap(
        drawn,
        of_redrawn,
        n_resamples=RESAMPLES,
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return Estimate(value, *found.confidence_interval)
