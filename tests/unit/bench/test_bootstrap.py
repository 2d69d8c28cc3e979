"""Paired intervals cover what they promise, and a verdict needs the whole interval."""

from __future__ import annotations

import numpy as np
import pytest

from sprinter.bench import bootstrap
from sprinter.bench.bootstrap import FEWEST, non_inferiority, paired_mean, speedup
from sprinter.errors import DataError


def covered(monkeypatch, count, draw, truth, interval, times=400):
    """How often an interval from `count` prompts holds the truth."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    rng = np.random.default_rng(1)
    found = [interval(draw(rng, count), rng) for _ in range(times)]
    return sum(i.low <= truth <= i.high for i in found) / times


# 95% less three standard errors of 400 trials, and less what is left of a skewed or sparse sample's shortfall: with
# intervals of percentiles 10 prompts reach .86, .82 and .88 here.
SHAPES = {
    "skewed": (lambda rng, n: rng.exponential(1.0, n), 1.0, 0.91),
    "with a long tail": (lambda rng, n: rng.lognormal(0.0, 1.0, n), np.exp(0.5), 0.87),
    "tokens of which few are atypical": (lambda rng, n: rng.binomial(64, 0.03, n) / 64, 0.03, 0.91),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [10, 30])
def test_intervals_cover_the_true_mean_with_few_prompts_too(monkeypatch, shape, count):
    draw, truth, least = SHAPES[shape]
    assert covered(monkeypatch, count, draw, truth, paired_mean) > least


def test_intervals_of_a_speed_up_cover_with_few_prompts_too(monkeypatch):
    def draw(rng, count):
        tokens = rng.integers(16, 64, count).astype(float)
        return tokens * rng.lognormal(0, 0.5, count), tokens, tokens * rng.lognormal(0, 0.2, count), tokens

    truth = np.exp(0.2**2 / 2 - 0.5**2 / 2)  # of the means of both latencies
    assert covered(monkeypatch, 10, draw, truth, lambda drawn, rng: speedup(*drawn, rng)) > 0.91


def test_one_prompt_has_no_interval_and_equal_ones_no_width():
    rng = np.random.default_rng(0)
    assert paired_mean(np.ones(1), rng).told() == {"value": 1, "low": None, "high": None}
    assert paired_mean(np.full(5, 0.07), rng).told() == pytest.approx({"value": 0.07, "low": 0.07, "high": 0.07})


def test_a_ratio_to_nothing_is_not_known():
    none = np.zeros(4)
    assert speedup(np.ones(4), np.ones(4), np.ones(4), none, np.random.default_rng(0)).told()["value"] is None


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
    assert non_inferiority(noise[:40] - 0.05, 0.05, rng)[0] == "undecided"


def test_few_prompts_decide_nothing():
    rng = np.random.default_rng(4)
    for count, verdict in ((FEWEST - 1, "undecided"), (FEWEST, "non-inferior")):
        assert non_inferiority(np.zeros(count), 0.05, rng)[0] == verdict


def test_methods_on_unlike_prompts_are_not_compared():
    with pytest.raises(DataError, match="same prompts"):
        speedup(np.ones(2), np.ones(2), np.ones(3), np.ones(3), np.random.default_rng(0))
