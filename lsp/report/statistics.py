"""What a few seeds say: interquartile means, bootstrap intervals, probability of improvement.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap, trim_mean

CONFIDENCE = 0.95
RESAMPLES = 2000

Scores = Float[np.ndarray, "*_batch _runs"]
"""Of the runs of one task, or of one env step of it; the batch is of independent questions."""


class Estimate(NamedTuple):
    """A value and the ends of its interval; those are NaN where no task has two runs."""

    value: Any
    low: Any
    high: Any


def iqm(tasks: Sequence[Scores]) -> Estimate:
    """Mean of the middle half of all scores, and its interval.

    Runs are resampled within each task (stratified). Of fewer than four scores nothing is trimmed.
    """
    return _estimate(_trimmed_mean, tasks)


def probability_of_improvement(ours: Sequence[Scores], theirs: Sequence[Scores]) -> Estimate:
    """That a run of ours beats one of theirs, averaged over tasks; a draw counts half."""
    count = len(ours)

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = zip(samples[:count], samples[count:], strict=True)
        return np.asarray(np.mean([_wins(x, y) for x, y in pairs], axis=0))

    return _estimate(statistic, [*ours, *theirs])


def _trimmed_mean(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(trim_mean(np.concatenate(samples, axis=-1), 0.25, axis=-1))


def _wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    ours, theirs = ours[..., :, None], theirs[..., None, :]
    return np.asarray(np.mean((ours > theirs) + 0.5 * (ours == theirs), axis=(-2, -1)))


def _estimate(statistic: Any, samples: Sequence[Scores]) -> Estimate:
    samples = [np.asarray(x, float) for x in samples]
    value = statistic(*samples)
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
