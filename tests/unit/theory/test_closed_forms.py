"""Every round formula equals the enumeration of all drafts and all tests."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprinter.errors import ConfigError, DataError
from sprinter.theory import closed_forms
from sprinter.theory.closed_forms import (
    constant_doubt_tokens,
    doubts_allowed,
    exact_round,
    expected_run_length,
    lookahead_round,
    lossless_round,
    run_length_probs,
    sprinter_round,
    target_round,
)
from sprinter.theory.token_law import Split, TokenLaw, auc_of, binormal_law
from tests.support.rounds import enumerate_round

# Scores are powers of 1/2, so that with h a power of 1/2 every product lies on the recursion's cells.
ROWS = [(0.4, 0.95, 1.0), (0.25, 0.7, 0.5), (0.2, 0.4, 0.25), (0.15, 0.1, 0.125)]
LAW = TokenLaw(*(np.array(column) for column in zip(*ROWS, strict=True)))


@st.composite
def row_laws(draw):
    """Up to three rows, accept independent of score, scores powers of 1/2."""
    count = draw(st.integers(1, 3))
    weights = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    accept = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    score = draw(st.lists(st.sampled_from([1.0, 0.5, 0.25, 0.125]), min_size=count, max_size=count))
    return [(w / sum(weights), a, f) for w, a, f in zip(weights, accept, score, strict=True)]


def law_of(rows):
    return TokenLaw(*(np.array(column) for column in zip(*rows, strict=True)))


def assert_same(round_law, enumerated):
    assert round_law.drafted == pytest.approx(enumerated.drafted, abs=1e-10)
    assert round_law.tokens == pytest.approx(enumerated.tokens, abs=1e-10)
    assert round_law.tested == pytest.approx(enumerated.tested, abs=1e-10)
    assert round_law.loss == pytest.approx(enumerated.loss, abs=1e-10)
    assert round_law.bonus == pytest.approx(enumerated.bonus, abs=1e-10)


@settings(max_examples=40)
@given(row_laws(), st.sampled_from([0.1, 0.3, 0.6, 1.0, math.inf]), st.integers(1, 5))
def test_sprinter_round_equals_enumeration(rows, threshold, cap):
    round_law = sprinter_round(law_of(rows).split(threshold), cap)
    assert_same(round_law, enumerate_round(rows, threshold, 1.0, cap))
    assert round_law.length_probs.sum() == pytest.approx(1.0)


@settings(max_examples=30)
@given(row_laws(), st.sampled_from([0.1, 0.3, 0.6]), st.integers(1, 5))
def test_paper_preset_round_equals_enumeration(rows, threshold, cap):
    law = law_of(rows)
    vouched = law.score >= threshold
    kept = float(np.average(law.accept[vouched], weights=law.weights[vouched])) if vouched.any() else 1.0
    round_law = sprinter_round(law.split(threshold), cap, capped_keep_prob=kept)
    assert_same(round_law, enumerate_round(rows, threshold, 1.0, cap, test_last=True))


@settings(max_examples=40)
@given(
    row_laws(),
    st.sampled_from([0.2, 0.4, 0.7, math.inf]),
    st.sampled_from([1.0, 0.5, 0.25, 0.0625]),
    st.integers(1, 5),
)
def test_lookahead_round_equals_enumeration(rows, threshold, lookahead, cap):
    round_law = lookahead_round(law_of(rows), threshold, lookahead, cap, bins=12)
    assert_same(round_law, enumerate_round(rows, threshold, lookahead, cap))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_exact_round_equals_enumeration(length):
    assert_same(exact_round(LAW.alpha, length), enumerate_round(ROWS, math.inf, -1.0, length))
    assert_same(lookahead_round(LAW, math.inf, -1.0, length), enumerate_round(ROWS, math.inf, -1.0, length))


def test_lossless_round_loses_nothing():
    round_law = lossless_round(LAW, 0.25, 6)
    assert round_law.loss == 0.0
    assert_same(round_law, enumerate_round(ROWS, math.inf, 0.25, 6))


def test_lookahead_of_one_is_sprinter():
    for threshold in (0.2, 0.4, 0.8):
        ahead, plain = lookahead_round(LAW, threshold, 1.0, 20), sprinter_round(LAW.split(threshold), 20)
        assert ahead.tokens == pytest.approx(plain.tokens)
        assert ahead.length_probs == pytest.approx(plain.length_probs)


def test_vouching_for_nobody_without_lookahead_is_exact_decoding_of_one_token():
    plain, exact = sprinter_round(LAW.split(math.inf), 20), exact_round(LAW.alpha, 1)
    assert (plain.drafted, plain.tokens, plain.loss) == (pytest.approx(1.0), pytest.approx(exact.tokens), 0.0)


def test_rounded_lookahead_converges_with_finer_cells():
    law = binormal_law(0.7, 0.85)
    fine = lookahead_round(law, math.inf, 0.05, 20, bins=4000)
    default = lookahead_round(law, math.inf, 0.05, 20)
    assert default.drafted == pytest.approx(fine.drafted, rel=3e-3)
    assert default.tokens == pytest.approx(fine.tokens, rel=3e-3)


@pytest.mark.parametrize(("unvouched_score", "lookahead", "doubts"), [(0.5, 1.0, 1), (0.5, 0.5, 1), (0.5, 0.2, 3)])
def test_constant_doubt_tokens_equals_the_recursion(unvouched_score, lookahead, doubts):
    law = TokenLaw(np.array([0.6, 0.4]), np.array([0.9, 0.55]), np.array([1.0, unvouched_score]))
    split = law.split(0.9)
    assert doubts_allowed(unvouched_score, lookahead) == doubts
    long = lookahead_round(law, 0.9, lookahead, cap=300)
    assert constant_doubt_tokens(split, doubts) == pytest.approx(long.tokens)
    assert long.drafted == pytest.approx(doubts / split.stop_prob)


@given(st.floats(1e-9, 1.0), st.integers(1, 40))
def test_expected_run_length_is_the_mean_of_the_run_length_law(stop_prob, cap):
    probs = run_length_probs(stop_prob, cap)
    assert probs.sum() == pytest.approx(1.0)
    assert expected_run_length(stop_prob, cap) == pytest.approx(probs @ np.arange(1, cap + 1), rel=1e-9)


def test_a_verifier_that_never_stops_fills_the_cap():
    assert expected_run_length(0.0, 20) == 20.0
    full = sprinter_round(Split(0.0, 1.0, 0.3), 20)
    assert (full.drafted, full.tokens, full.loss_per_token) == (20.0, 20.0, pytest.approx(0.3))


@given(st.integers(1, 30))
def test_exact_round_at_full_acceptance_emits_one_more_than_it_drafts(length):
    assert exact_round(1.0, length).tokens == pytest.approx(length + 1)


def test_the_target_alone_spends_one_call_a_token():
    assert (target_round().tokens, target_round().drafted, target_round().calls_per_token) == (1.0, 0.0, 1.0)


@given(st.floats(0.05, 0.95), st.floats(0.5, 0.99))
def test_binormal_law_has_the_alpha_and_auc_it_was_asked_for(alpha, auc):
    law = binormal_law(alpha, auc)
    assert law.alpha == pytest.approx(alpha, abs=1e-9)
    assert auc_of(law) == pytest.approx(auc, abs=1e-3)


def test_auc_counts_pairs_as_a_rank_sum_does():
    rng = np.random.default_rng(5)
    label, score = rng.integers(0, 2, 60), np.round(rng.random(60), 1)
    pairs = [(a, r) for a in score[label == 1] for r in score[label == 0]]
    counted = np.mean([(a > r) + 0.5 * (a == r) for a, r in pairs])
    assert auc_of(TokenLaw.from_rows(label, score)) == pytest.approx(counted)


def test_split_sums_rows_on_either_side_of_the_threshold():
    split = LAW.split(0.3)
    assert split.stop_prob == pytest.approx(0.35)
    assert split.keep_prob == pytest.approx((0.2 * 0.4 + 0.15 * 0.1) / 0.35)
    assert split.delta == pytest.approx(0.4 * 0.05 + 0.25 * 0.3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: expected_run_length(0.5, 0),
        lambda: expected_run_length(1.5, 3),
        lambda: exact_round(1.2, 3),
        lambda: binormal_law(1.0, 0.8),
        lambda: binormal_law(0.5, 0.4),
        lambda: doubts_allowed(1.0, 0.5),
        lambda: constant_doubt_tokens(Split(0.0, 1.0, 0.0), 2),
        lambda: closed_forms.lookahead_round(LAW, 0.5, 0.5, 0),
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()


def test_rows_outside_the_unit_interval_are_refused():
    with pytest.raises(DataError, match="score"):
        TokenLaw.from_rows([0.5], [1.5])
