"""Paired intervals cover what they promise, and a verdict needs the whole interval."""

from __future__ import annotations

import numpy as np
import pytest

from sprinter.bench import bootstrap
from sprinter.bench.bootstrap import non_inferiority, paired_mean, speedup
from sprinter.errors import DataError


def test_intervals_cover_the_true_mean_about_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        interval = paired_mean(rng.exponential(1.0, 60), rng)
        covered += interval.low <= 1.0 <= interval.high
    # 95% less the percentile method's known shortfall on a skewed sample of 60; 0.87 is 4 standard errors below 0.93.
    assert covered / 200 > 0.87


def test_pairing_removes_what_the_prompts_share():
    rng = np.random.default_rng(2)
    length = rng.uniform(0.5, 5.0, 50)  # seconds; prompts differ tenfold
    seconds, other = length, 2 * length * rng.normal(1.0, 0.01, 50)
    tokens = np.full(50, 64.0)
    interval = speedup(seconds, tokens, other, tokens, rng)
    assert interval.value == pytest.approx(2, rel=0.01)
    assert interval.high - interval.low < 0.03


def test_a_verdict_needs_the_whole_interval_on_one_side():
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.1, 400)
    assert non_inferiority(noise, 0.05, rng)[0] == "non-inferior"
    assert non_inferiority(noise - 0.2, 0.05, rng)[0] == "inferior"
    assert non_inferiority(noise[:6] - 0.05, 0.05, rng)[0] == "undecided"


def test_methods_on_unlike_prompts_are_not_compared():
    with pytest.raises(DataError, match="same prompts"):
        speedup(np.ones(2), np.ones(2), np.ones(3), np.ones(3), np.random.default_rng(0))
