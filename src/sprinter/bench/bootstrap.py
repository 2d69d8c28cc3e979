"""Intervals by bootstrap over prompts (Efron & Tibshirani 1993): what two methods did on one is resampled together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sprinter.errors import DataError

Array = NDArray[np.float64]
Verdict = Literal["non-inferior", "inferior", "undecided"]

RESAMPLES = 4000
_CHUNK = 500  # resamples held at once


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its percentile interval."""

    value: float
    low: float
    high: float


def paired_mean(values: Array, rng: np.random.Generator, level: float = 0.95) -> Interval:
    """The mean of one number per prompt, [prompts]; give differences to compare two methods."""
    return paired_ratio(values, np.ones(len(values)), rng, level)


def paired_ratio(top: Array, bottom: Array, rng: np.random.Generator, level: float = 0.95) -> Interval:
    """sum(top) / sum(bottom) over prompts, [prompts] each, resampling prompts with both their numbers."""
    if len(top) == 0 or len(top) != len(bottom):
        raise DataError(f"cannot compare {len(top)} prompts with {len(bottom)}: the same prompts are needed in both")
    tails = (100 * (1 - level) / 2, 100 * (1 + level) / 2)
    low, high = np.percentile(_resampled(top, bottom, rng), tails)
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high))


def speedup(
    seconds: Array, tokens: Array, other_seconds: Array, other_tokens: Array, rng: np.random.Generator
) -> Interval:
    """(tokens/s of a method) / (tokens/s of another), each pooled over the same prompts, with a paired 95% interval."""
    if len({len(seconds), len(tokens), len(other_seconds), len(other_tokens)}) != 1 or len(seconds) == 0:
        raise DataError("a speed-up needs the same prompts of both methods, and at least one")
    state = rng.bit_generator.state
    own = _resampled(tokens, seconds, rng)
    # The same prompts in every resample of both, so that what they share cancels.
    rng.bit_generator.state = state
    other = _resampled(other_tokens, other_seconds, rng)
    low, high = np.percentile(own / other, (2.5, 97.5))
    value = (tokens.sum() / seconds.sum()) / (other_tokens.sum() / other_seconds.sum())
    return Interval(float(value), float(low), float(high))


def _resampled(top: Array, bottom: Array, rng: np.random.Generator) -> Array:
    """sum(top) / sum(bottom) of RESAMPLES resamples of the prompts."""
    parts = []
    for start in range(0, RESAMPLES, _CHUNK):
        picks = rng.integers(0, len(top), (min(_CHUNK, RESAMPLES - start), len(top)))
        parts.append(top[picks].sum(axis=1) / bottom[picks].sum(axis=1))
    return np.concatenate(parts)


def non_inferiority(differences: Array, margin: float, rng: np.random.Generator) -> tuple[Verdict, Interval]:
    """Whether a method loses less than `margin` to the baseline, from method - baseline, [prompts], more is better.

    non-inferior: the 95% interval lies above -margin; inferior: it lies below -margin; else undecided.
    """
    interval = paired_mean(differences, rng)
    if interval.low > -margin:
        return "non-inferior", interval
    return ("inferior" if interval.high < -margin else "undecided"), interval
