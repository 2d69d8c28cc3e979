"""Intervals over prompts by the studentised bootstrap (Efron & Tibshirani 1993, chapter 12): they cover with few, too.

A prompt's numbers are drawn together, so what two methods did on one is resampled together. Each resample is measured
in its own standard error; percentiles of the bare estimates would be too short for few or skewed prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from sprinter.errors import DataError

Array = NDArray[np.float64]
Verdict = Literal["non-inferior", "inferior", "undecided"]

FEWEST: Final = 30  # prompts without which nothing is decided
RESAMPLES = 4000
# A resample that happens to hold nearly equal prompts knows nothing of its error; it is taken to be at least this part
# of the sample's. Coverage with and without: tests/unit/bench/test_bootstrap.py.
_LEAST_SPREAD: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its interval; both are infinite where one prompt says nothing about them."""

    value: float
    low: float
    high: float

    def told(self) -> dict[str, float | None]:
        """As JSON types: what nobody knows is None."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


def paired_mean(values: Array, rng: np.random.Generator, level: float = 0.95) -> Interval:
    """The mean of one number per prompt, [prompts]; give differences to compare two methods."""
    _check(values)
    weights = _resamples(len(values), rng)
    center = float(values.mean())
    means = weights @ values
    spreads = np.sqrt(np.maximum(0.0, weights @ (values - center) ** 2 - (means - center) ** 2))
    low, high = _ends(center, float(values.std()), means - center, spreads, level, len(values))
    return Interval(center, low, high)


def paired_ratio(top: Array, bottom: Array, rng: np.random.Generator, level: float = 0.95) -> Interval:
    """sum(top) / sum(bottom) over prompts, [prompts] each and above 0, resampling prompts with both their numbers."""
    return _of_sums([top], [bottom], rng, level)


def speedup(
    seconds: Array,
    tokens: Array,
    other_seconds: Array,
    other_tokens: Array,
    rng: np.random.Generator,
    level: float = 0.95,
) -> Interval:
    """(tokens/s of a method) / (tokens/s of another), each pooled over the same prompts, with a paired interval."""
    return _of_sums([tokens, other_seconds], [seconds, other_tokens], rng, level)


def non_inferiority(differences: Array, margin: float, rng: np.random.Generator) -> tuple[Verdict, Interval]:
    """Whether a method loses less than `margin` to the baseline, from method - baseline, [prompts], more is better.

    non-inferior: the 95% interval lies above -margin; inferior: it lies below -margin; else, and with fewer than
    FEWEST prompts: undecided.
    """
    interval = paired_mean(differences, rng)
    if len(differences) < FEWEST:
        return "undecided", interval
    if interval.low > -margin:
        return "non-inferior", interval
    return ("inferior" if interval.high < -margin else "undecided"), interval


def _of_sums(tops: list[Array], bottoms: list[Array], rng: np.random.Generator, level: float) -> Interval:
    """The product of sums over prompts divided by that of others, studentised on its logarithm.

    To first order the logarithm's error is the mean over prompts of sum_k +-x_k / mean(x_k): the delta method.
    """
    _check(*tops, *bottoms)
    columns = np.stack([*tops, *bottoms])  # [columns, prompts]
    signs = np.array([1.0] * len(tops) + [-1.0] * len(bottoms))
    count, means = columns.shape[1], columns.mean(axis=1)
    if (means <= 0).any():
        return Interval(math.nan, -math.inf, math.inf)
    scaled = columns / means[:, None]  # so that every mean is 1
    weights = _resamples(count, rng)
    drawn = np.maximum(weights @ scaled.T, 1e-3)  # [resamples, columns]; 0 where a column is on all drawn prompts
    products = weights @ np.einsum("ip,jp->pij", scaled, scaled).reshape(count, -1)
    inner = products.reshape(-1, len(signs), len(signs))  # [resamples, columns, columns]
    spreads = np.sqrt(np.maximum(0.0, np.einsum("ri,rij,rj->r", signs / drawn, inner, signs / drawn)))
    center, spread = float(signs @ np.log(means)), float(np.sqrt(((signs @ scaled) ** 2).mean()))
    low, high = _ends(center, spread, np.log(drawn) @ signs, spreads, level, count)
    return Interval(math.exp(center), math.exp(low), math.exp(high))


def _resamples(count: int, rng: np.random.Generator) -> Array:
    """Shares of the prompts in each resample, [RESAMPLES, prompts]."""
    return rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count


def _ends(center: float, spread: float, shifts: Array, spreads: Array, level: float, count: int) -> tuple[float, float]:
    """The interval's ends from each resample's distance from `center` and its spread over prompts, [resamples]."""
    if count == 1:
        return -math.inf, math.inf
    if spread <= 1e-12 * max(1.0, abs(center)):
        return center, center
    errors = shifts / np.maximum(spreads, _LEAST_SPREAD * spread)
    low, high = np.quantile(errors, [(1 - level) / 2, (1 + level) / 2])
    return center - float(high) * spread, center - float(low) * spread


def _check(*columns: Array) -> None:
    counts = {len(column) for column in columns}
    if len(counts) != 1 or counts == {0}:
        told = " with ".join(str(len(column)) for column in columns)
        raise DataError(f"cannot compare {told} prompts: the same prompts are needed, and at least one")
