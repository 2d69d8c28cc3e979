"""Break-even points are where they say: on one side SPRINTER wins, on the other it does not."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sprinter.errors import ConfigError
from sprinter.theory.break_even import (
    HardLabels,
    best_exact_cost,
    capped_ceiling,
    relative_cost,
    smallest_true_positive_rate,
    speedup_ceiling,
    uncapped_true_positive_rate,
    winning_draft_costs,
)
from sprinter.theory.closed_forms import exact_round, sprinter_round
from sprinter.theory.token_law import Split


@settings(max_examples=30)
@given(st.floats(0.1, 0.95), st.floats(0.02, 1.0), st.floats(0.0, 1.0), st.floats(0.001, 2.0))
def test_sprinter_wins_exactly_inside_the_interval_of_draft_costs(alpha, stop_prob, keep_prob, draft_cost):
    round_law = sprinter_round(Split(stop_prob, keep_prob, 0.0), 20)
    interval = winning_draft_costs(round_law, alpha)
    gap = relative_cost(round_law, draft_cost) - best_exact_cost(alpha, draft_cost)
    assume(abs(gap) > 1e-9)
    inside = interval is not None and interval[0] < draft_cost < interval[1]
    assert inside == (gap < 0)


def test_the_largest_draft_cost_is_a_point_of_equal_speed():
    round_law = sprinter_round(Split(0.2, 0.4, 0.05), 20)
    interval = winning_draft_costs(round_law, 0.7, verifier_cost=0.01)
    assert interval is not None
    high = interval[1]
    assert relative_cost(round_law, high + 0.01) == pytest.approx(best_exact_cost(0.7, high))


def test_a_verifier_that_vouches_for_nobody_never_wins():
    assert winning_draft_costs(exact_round(0.7, 1), 0.7) is None


def by_kinds(labels, true_positive_rate, false_positive_rate):
    """Outcomes of a drafted token, one by one: (chance, vouched, accept)."""
    good, bad = labels.acceptable, 1 - labels.acceptable
    return [
        (good * true_positive_rate, True, 1.0),
        (good * (1 - true_positive_rate), False, 1.0),
        (bad * false_positive_rate, True, labels.bad_accept),
        (bad * (1 - false_positive_rate), False, labels.bad_accept),
    ]


@given(st.floats(0.05, 1.0), st.floats(0.0, 0.9), st.floats(0, 1), st.floats(0, 1))
def test_hard_label_split_sums_the_four_kinds(acceptable, bad_accept, true_positive_rate, false_positive_rate):
    labels = HardLabels(acceptable, bad_accept)
    kinds = by_kinds(labels, true_positive_rate, false_positive_rate)
    split = labels.split(true_positive_rate, false_positive_rate)
    stop = sum(w for w, vouched, _ in kinds if not vouched)
    assert split.stop_prob == pytest.approx(stop, abs=1e-12)
    assert split.stop_prob * split.keep_prob == pytest.approx(
        sum(w * a for w, vouched, a in kinds if not vouched), abs=1e-12
    )
    assert split.delta == pytest.approx(sum(w * (1 - a) for w, vouched, a in kinds if vouched), abs=1e-12)
    assert labels.alpha == pytest.approx(sum(w * a for w, _, a in kinds))


@settings(max_examples=15)
@given(st.floats(0.3, 0.95), st.floats(0.0, 0.5), st.floats(0.0, 0.6), st.floats(0.01, 0.4))
def test_closed_form_of_the_smallest_tpr_equals_the_search_without_a_cap(acceptable, bad_accept, fpr, draft_cost):
    labels = HardLabels(acceptable, bad_accept)
    # A tie between the methods at every TPR is decided by rounding.
    at_best = relative_cost(sprinter_round(labels.split(1.0, fpr), 2000), draft_cost)
    assume(abs(at_best - best_exact_cost(labels.alpha, draft_cost)) > 1e-6)
    closed = uncapped_true_positive_rate(labels, fpr, draft_cost)
    # At a TPR near 1 a run of 2000 tokens is still as good as endless: kappa >= (1 - A)(1 - FPR) >= 0.02.
    searched = smallest_true_positive_rate(labels, fpr, draft_cost, cap=2000)
    assume(closed is None or closed < 0.999)
    if closed is None:
        assert searched is None
    else:
        assert searched == pytest.approx(closed, abs=1e-6)


def test_the_smallest_tpr_separates_winning_from_losing():
    labels = HardLabels(0.7)
    rate = smallest_true_positive_rate(labels, 0.1, 0.1)
    assert rate is not None and 0.0 < rate < 1.0
    exact = best_exact_cost(labels.alpha, 0.1)
    assert relative_cost(sprinter_round(labels.split(rate - 0.01, 0.1), 20), 0.1) > exact
    assert relative_cost(sprinter_round(labels.split(rate + 0.01, 0.1), 20), 0.1) < exact


def test_no_tpr_saves_a_drafter_as_dear_as_the_target():
    assert smallest_true_positive_rate(HardLabels(0.7), 0.1, 1.0) is None
    assert uncapped_true_positive_rate(HardLabels(0.7), 0.1, 1.0) is None


@given(st.floats(0.01, 0.9))
def test_both_methods_approach_the_ceiling_from_below(draft_cost):
    ceiling = speedup_ceiling(draft_cost)
    exact = [1 / relative_cost(exact_round(1 - 1e-9, g), draft_cost) for g in (5, 50, 5000)]
    sprinter = [1 / relative_cost(sprinter_round(Split(0.0, 1.0, 0.0), cap), draft_cost) for cap in (5, 50, 5000)]
    assert np.all(np.diff(exact) > 0) and np.all(np.diff(sprinter) > 0)
    assert max(exact[-1], sprinter[-1]) <= ceiling
    assert exact[-1] == pytest.approx(ceiling, rel=0.03)
    assert sprinter[-1] == pytest.approx(ceiling, rel=0.03)
    assert sprinter[0] == pytest.approx(capped_ceiling(draft_cost, 5))
    assert sprinter[0] < exact[0]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError):
        HardLabels(0.0)
    with pytest.raises(ConfigError):
        speedup_ceiling(0.0)
