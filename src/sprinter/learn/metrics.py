"""How good a score is, for labels in [0, 1]: a soft label a counts as the coin that falls on 1 with chance a."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def auc(score: ArrayLike, label: ArrayLike) -> float:
    """P[score of a positive > score of a negative] + half the ties; NaN where one kind is absent.

    Fawcett 2006, An introduction to ROC analysis; rows weigh a as positives and 1 - a as negatives.
    """
    value, positive = np.asarray(score, float), np.asarray(label, float)
    order = np.argsort(value, kind="stable")
    value, positive = value[order], positive[order]
    negative = 1 - positive
    starts = np.flatnonzero(np.r_[True, np.diff(value) > 0])  # of runs of equal scores
    ups, downs = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
    below = np.cumsum(downs) - downs
    total = positive.sum() * negative.sum()
    return float((ups * (below + downs / 2)).sum() / total) if total > 0 else float("nan")


def average_precision(score: ArrayLike, label: ArrayLike) -> float:
    """Mean precision over the positives found, from the highest score down; NaN without positives."""
    value, positive = np.asarray(score, float), np.asarray(label, float)
    positive = positive[np.argsort(-value, kind="stable")]
    if positive.sum() == 0:
        return float("nan")
    precision = np.cumsum(positive) / np.arange(1, len(positive) + 1)
    return float((precision * positive).sum() / positive.sum())


def brier(score: ArrayLike, label: ArrayLike) -> float:
    """E[(f - A)^2] with A the coin of the label: f^2 - 2 f a + a. Brier 1950."""
    value, chance = np.asarray(score, float), np.asarray(label, float)
    return float(np.mean(value**2 - 2 * value * chance + chance))


def reliability(score: ArrayLike, label: ArrayLike, bins: int = 15) -> tuple[Array, Array, Array]:
    """(mean score, mean label, rows) of bins of equal width in the score; empty bins are left out."""
    value, chance = np.asarray(score, float), np.asarray(label, float)
    place = np.minimum((value * bins).astype(int), bins - 1)
    rows = np.bincount(place, minlength=bins).astype(float)
    full = rows > 0
    sums = (np.bincount(place, weights, minlength=bins)[full] for weights in (value, chance))
    mean_score, mean_label = (s / rows[full] for s in sums)
    return mean_score, mean_label, rows[full]


def calibration_error(score: ArrayLike, label: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: mean |mean label - mean score| over bins, weighted by rows. Guo et al. 1706.04599."""
    mean_score, mean_label, rows = reliability(score, label, bins)
    return float((np.abs(mean_score - mean_label) * rows).sum() / rows.sum())


def measures(score: ArrayLike, label: ArrayLike) -> dict[str, float]:
    """All of the above, with the number of rows and the mean label."""
    return {
        "rows": len(np.asarray(score)),
        "mean_label": float(np.mean(np.asarray(label, float))),
        "auc": auc(score, label),
        "average_precision": average_precision(score, label),
        "brier": brier(score, label),
        "ece": calibration_error(score, label),
    }
