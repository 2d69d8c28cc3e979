"""Seconds and FLOPs per token follow from a round, the target's cost being a function of its width."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprinter.errors import ConfigError, DataError
from sprinter.theory import costs as cost_model
from sprinter.theory.closed_forms import exact_round, lookahead_round, sprinter_round, target_round
from sprinter.theory.costs import Costs, FlopCosts, WidthCost
from sprinter.theory.token_law import Split, binormal_law

STEPPED = WidthCost((1, 4, 8), (1.0, 1.3, 2.9))  # grows faster when wide, as on a small processor
COSTS = Costs(0.1, 0.01, STEPPED, token_s=0.02, target_prompt_s=7.0, draft_prompt_s=2.0)


def test_width_cost_interpolates_and_goes_on_beyond_its_ends():
    assert [STEPPED(w) for w in (1, 4, 8)] == pytest.approx([1.0, 1.3, 2.9])
    assert STEPPED(6) == pytest.approx(2.1)
    assert STEPPED(10) == pytest.approx(3.7)
    assert WidthCost((3,), (0.5,))(9) == 0.5


def test_width_cost_never_falls_beyond_its_last_point():
    assert WidthCost((1, 4), (2.0, 1.8))(40) == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("widths", "seconds"), [((), ()), ((1, 1), (1.0, 1.0)), ((0, 2), (1.0, 1.0)), ((1,), (0.0,)), ((1, 2), (1.0,))]
)
def test_a_table_of_widths_that_makes_no_sense_is_refused(widths, seconds):
    with pytest.raises(DataError):
        WidthCost(widths, seconds)


@given(st.floats(0.0, 1.0), st.integers(0, 30))
def test_exact_formula_equals_the_round(alpha, length):
    by_round = cost_model.seconds_per_token(exact_round(alpha, length), COSTS, with_verifier=False)
    assert cost_model.exact_seconds_per_token(alpha, length, COSTS) == pytest.approx(by_round, rel=1e-9)


@given(st.floats(0.0, 1.0))
def test_best_draft_length_is_the_best_of_all(alpha):
    best = cost_model.best_draft_length(alpha, COSTS, longest=12)
    seconds = [cost_model.exact_seconds_per_token(alpha, length, COSTS) for length in range(1, 13)]
    assert cost_model.exact_seconds_per_token(alpha, best, COSTS) == min(seconds)
    assert cost_model.best_exact_round(alpha, COSTS, 12)[0] == best


def test_a_round_is_charged_by_the_law_of_its_length_and_not_by_its_mean():
    round_law = sprinter_round(Split(0.3, 0.5, 0.1), 12)
    expected = sum(p * (n * 0.11 + STEPPED(n + 1)) for n, p in enumerate(round_law.length_probs, start=1))
    assert cost_model.round_seconds(round_law, COSTS, with_verifier=True) == pytest.approx(expected)
    at_mean = round_law.drafted * 0.11 + STEPPED(round_law.drafted + 1)
    assert abs(expected - at_mean) > 0.02


def test_the_target_alone_costs_a_call_of_one_token():
    assert cost_model.seconds_per_token(target_round(), COSTS, with_verifier=False) == COSTS.alone_s == 1.02


@given(st.floats(0.05, 0.95), st.floats(0.5, 0.95), st.sampled_from([1.0, 0.4, 0.1]))
def test_flops_charge_the_target_for_every_pending_token_and_the_paper_only_for_tested_ones(alpha, auc, lookahead):
    round_law = lookahead_round(binormal_law(alpha, auc), alpha, lookahead, 8)
    flops = FlopCosts(draft=1.0, verifier=0.05, target=10.0)
    all_of_it = cost_model.flops_per_token(round_law, flops, with_verifier=True) * round_law.tokens
    paper = cost_model.paper_flops_per_token(round_law, flops, with_verifier=True) * round_law.tokens
    assert all_of_it == pytest.approx(1.05 * round_law.drafted + 10.0 * (round_law.drafted + 1))
    assert paper == pytest.approx(1.05 * round_law.drafted + 10.0 * round_law.tested)
    assert paper < all_of_it


def test_flops_of_known_rounds():
    flops = FlopCosts(draft=1.0, verifier=0.0, target=10.0)
    assert cost_model.flops_per_token(target_round(), flops, with_verifier=False) == 10.0
    assert cost_model.paper_flops_per_token(target_round(), flops, with_verifier=False) == 10.0
    # 3 drafted, all kept, 4 tokens: 3 + 4 * 10 in truth, 3 + 3 * 10 by the paper.
    assert cost_model.flops_per_token(exact_round(1.0, 3), flops, with_verifier=False) == pytest.approx(43 / 4)
    assert cost_model.paper_flops_per_token(exact_round(1.0, 3), flops, with_verifier=False) == pytest.approx(33 / 4)


def test_token_flops_equal_a_count_of_multiply_adds():
    layers, hidden, context = 2, 3, 5
    attention = sum(2 * hidden for _ in range(layers) for _ in range(context) for _ in ("q.k", "weights.v"))
    assert cost_model.token_flops(100, layers, hidden, context) == 200 + attention


def test_wrong_costs_are_refused():
    with pytest.raises(DataError):
        Costs(-0.1, 0.0, STEPPED)
    with pytest.raises(DataError):
        Costs(0.1, 0.0, STEPPED, token_s=-0.1)
    with pytest.raises(ConfigError):
        cost_model.best_draft_length(0.5, COSTS, longest=2, shortest=3)
    assert Costs(0.2, 0.0, STEPPED).ratio == pytest.approx(0.2)
    assert np.isfinite(STEPPED.at(np.arange(1, 50))).all()
