"""Bounds on a mean: known values, inversion, and the running bound against its own definition."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprinter.bounds import (
    PVALUES,
    RunningBound,
    betting_pvalue,
    hoeffding_bentkus_pvalue,
    pvalue_named,
    upper_bound,
)
from sprinter.errors import ConfigError

losses_lists = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60)


@pytest.mark.parametrize("losses", [[1.1], [-0.1], [math.nan], [math.inf], [0.2, 7.0]])
def test_losses_outside_the_unit_interval_are_refused(losses: list[float]) -> None:
    with pytest.raises(ConfigError, match="outside"):
        betting_pvalue(losses, 0.1)
    with pytest.raises(ConfigError, match="outside"):
        hoeffding_bentkus_pvalue(losses, 0.1)
    with pytest.raises(ConfigError, match="outside"):
        RunningBound().update(losses)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1, math.nan])
def test_an_epsilon_outside_the_open_unit_interval_is_refused(epsilon: float) -> None:
    for pvalue in PVALUES.values():
        with pytest.raises(ConfigError, match="epsilon"):
            pvalue([0.1], epsilon, 0.05, None)


def test_an_unknown_p_value_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(ConfigError, match="betting, hoeffding-bentkus"):
        pvalue_named("clopper")


def test_no_data_proves_nothing() -> None:
    assert [pvalue([], 0.1, 0.05, None) for pvalue in PVALUES.values()] == [1.0, 1.0]
    assert upper_bound([], 0.05) == 1.0
    assert (RunningBound().upper, RunningBound().lower) == (1.0, 0.0)


def test_hoeffding_bentkus_agrees_with_a_hand_computation() -> None:
    # 100 losses of 0 against 5%: KL(0 || .05) = -log .95, so both tails are .95^100 (Bentkus: times e).
    assert hoeffding_bentkus_pvalue(np.zeros(100), 0.05) == pytest.approx(0.95**100, rel=1e-12)
    # Mean .02 of 100: KL tail, by hand.
    kl = 0.02 * math.log(0.02 / 0.05) + 0.98 * math.log(0.98 / 0.95)
    losses = np.full(100, 0.02)
    assert hoeffding_bentkus_pvalue(losses, 0.05) == pytest.approx(math.exp(-100 * kl), rel=1e-9)


def test_betting_agrees_with_a_capital_played_by_hand() -> None:
    # The first bet knows variance 1/4 only, the second has seen the first loss.
    first = min(math.sqrt(2 * math.log(20) / (2 * 0.25)), 0.99 / 0.8)
    mean = (0.5 + 0.1) / 2
    second = min(math.sqrt(2 * math.log(20) / (2 * (0.25 + (0.1 - mean) ** 2) / 2)), 0.99 / 0.8)
    capital = [1 - first * (0.1 - 0.2), (1 - first * (0.1 - 0.2)) * (1 - second * (0.3 - 0.2))]
    assert betting_pvalue([0.1, 0.3], 0.2) == pytest.approx(1 / max(capital), rel=1e-12)


@given(losses_lists, st.floats(0.01, 0.99), st.sampled_from(sorted(PVALUES)))
def test_a_p_value_never_grows_with_epsilon(losses: list[float], epsilon: float, method: str) -> None:
    wider = min(0.995, epsilon * 1.1)
    assert PVALUES[method](losses, wider, 0.05, None) <= PVALUES[method](losses, epsilon, 0.05, None) + 1e-12


@given(losses_lists, st.sampled_from(sorted(PVALUES)))
def test_the_upper_bound_is_where_the_p_value_meets_alpha(losses: list[float], method: str) -> None:
    bound = upper_bound(losses, 0.1, method)
    assert np.mean(losses) <= bound <= 1.0
    if bound < 1.0:
        assert PVALUES[method](losses, bound, 0.1, None) <= 0.1
    inside = bound - 1e-6
    if inside > np.mean(losses):
        assert PVALUES[method](losses, inside, 0.1, None) > 0.1


@given(st.lists(st.floats(0.0, 1.0), max_size=40), st.integers(1, 7))
@settings(deadline=None)
def test_a_running_bound_does_not_depend_on_how_the_stream_is_cut(losses: list[float], piece: int) -> None:
    whole, pieces = RunningBound(0.05), RunningBound(0.05)
    whole.update(losses)
    for start in range(0, len(losses), piece):
        pieces.update(losses[start : start + piece])
    assert pieces.count == whole.count == len(losses)
    assert pieces.upper == pytest.approx(whole.upper, rel=1e-9)
    assert pieces.lower == pytest.approx(whole.lower, rel=1e-9, abs=1e-12)


def test_a_running_bound_solves_the_equation_it_states() -> None:
    losses = np.random.default_rng(5).random(400) * 0.2
    bound = RunningBound(0.05)
    bound.update(losses)
    bets = 0.9 / 1.8 ** np.arange(12)
    total = bound.upper * 400
    up = np.mean([np.exp(np.log1p(-b * losses).sum() + b * total) for b in bets])
    assert up == pytest.approx(20.0, rel=1e-6)
    total = bound.lower * 400
    down = np.mean([np.exp(np.log1p(b * losses).sum() - b * total) for b in bets])
    assert down == pytest.approx(20.0, rel=1e-6)


def test_a_running_bound_tightens_around_the_mean() -> None:
    rng = np.random.default_rng(6)
    bound = RunningBound(0.05)
    widths = []
    for _ in range(4):
        bound.update((rng.random(20_000) < 0.05).astype(float))
        assert bound.lower <= bound.mean <= bound.upper
        widths.append(bound.upper - bound.lower)
    assert widths == sorted(widths, reverse=True)
    # Law of the iterated logarithm scale: 80,000 coin flips at 5% leave about 2 * 3.2 standard errors.
    assert widths[-1] < 2 * 5 * math.sqrt(0.05 * 0.95 / 80_000)


def test_a_saved_running_bound_goes_on_where_it_stopped() -> None:
    losses = np.random.default_rng(7).random(50)
    straight, stopped = RunningBound(), RunningBound()
    straight.update(losses)
    stopped.update(losses[:20])
    resumed = RunningBound.from_state(json.loads(json.dumps(stopped.state())))
    resumed.update(losses[20:])
    assert resumed.count == straight.count
    assert resumed.mean == pytest.approx(straight.mean, rel=1e-12)
    assert resumed.upper == pytest.approx(straight.upper, rel=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 2.0},
        {"count": "many"},
        {"count": -1},
        {"total": math.nan},
        {"log_upper": [0.0]},
        {"log_lower": [math.inf] * 12},
        {"log_lower": None},
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RunningBound.from_state(RunningBound().state() | change)


@given(st.lists(st.floats(0.0, 1.0), max_size=30), st.lists(st.floats(0.0, 1.0), max_size=30))
@settings(deadline=None)
def test_absorbing_a_piece_equals_seeing_its_losses(first: list[float], second: list[float]) -> None:
    straight, joined, piece = RunningBound(), RunningBound(), RunningBound()
    straight.update(first + second)
    joined.update(first)
    piece.update(second)
    joined.absorb(piece)
    assert joined.count == straight.count
    assert joined.upper == pytest.approx(straight.upper, rel=1e-9)
    assert joined.lower == pytest.approx(straight.lower, rel=1e-9, abs=1e-12)


def test_an_early_stop_needs_bets_that_do_not_know_it() -> None:
    losses = np.random.default_rng(8).beta(1, 9, size=200)
    # With the planned size the path of the capital is the same, so the p-value can only fall as losses come in.
    path = [betting_pvalue(losses[:k], 0.2, 0.05, planned=200) for k in range(1, 201)]
    assert path == sorted(path, reverse=True)
    assert path[-1] == betting_pvalue(losses, 0.2)
