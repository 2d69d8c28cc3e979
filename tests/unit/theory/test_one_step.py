"""The one-step error is an identity, thresholds on a(x) are optimal, and no gate beats the limit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from sprinter.errors import ConfigError
from sprinter.theory import one_step


@st.composite
def two_laws(draw, size=None):
    """(target_probs, draft_probs) over up to 6 tokens, zeros included."""
    size = size or draw(st.integers(2, 6))
    laws = []
    for _ in range(2):
        weights = draw(st.lists(st.integers(0, 12), min_size=size, max_size=size).filter(any))
        laws.append(np.array(weights, float) / sum(weights))
    return laws


@st.composite
def laws_and_gate(draw):
    target_probs, draft_probs = draw(two_laws())
    gate = draw(st.lists(st.sampled_from([0.0, 1.0, 0.25]), min_size=len(draft_probs), max_size=len(draft_probs)))
    return target_probs, draft_probs, np.array(gate)


def enumerated_law(target_probs, draft_probs, vouched):
    """The emitted token's law by going through every draft, every word of the verifier and every test."""
    law = np.zeros(len(target_probs))
    excess = [max(p - q, 0.0) for p, q in zip(target_probs, draft_probs, strict=True)]
    for token, q in enumerate(draft_probs):
        if q == 0.0:
            continue
        law[token] += q * vouched[token]
        accept = min(1.0, target_probs[token] / q)
        law[token] += q * (1.0 - vouched[token]) * accept
        for other, mass in enumerate(excess):
            if accept < 1.0:
                law[other] += q * (1.0 - vouched[token]) * (1.0 - accept) * mass / sum(excess)
    return law


@given(laws_and_gate())
def test_one_step_law_equals_enumeration(case):
    law = one_step.one_step_law(*case)
    assert law == pytest.approx(enumerated_law(*case), abs=1e-12)
    assert law.sum() == pytest.approx(1.0)


@given(laws_and_gate())
def test_total_variation_to_the_target_is_exactly_delta(case):
    target_probs, draft_probs, _ = case
    delta = one_step.one_step_error(*case)
    assert one_step.total_variation(enumerated_law(*case), target_probs) == pytest.approx(delta, abs=1e-12)
    assert delta <= one_step.total_variation(target_probs, draft_probs) + 1e-12


@given(laws_and_gate())
def test_delta_is_the_expected_rejection_chance_of_vouched_tokens(case):
    target_probs, draft_probs, vouched = case
    accept = one_step.acceptance_probs(target_probs, draft_probs)
    assert one_step.one_step_error(*case) == pytest.approx((draft_probs * vouched * (1 - accept)).sum(), abs=1e-12)


@given(two_laws())
def test_vouching_for_nobody_gives_the_target_and_for_everybody_the_draft(laws):
    target_probs, draft_probs = laws
    nobody, everybody = np.zeros(len(draft_probs)), np.ones(len(draft_probs))
    assert one_step.one_step_law(*laws, nobody) == pytest.approx(target_probs, abs=1e-12)
    assert one_step.one_step_law(*laws, everybody) == pytest.approx(draft_probs, abs=1e-12)
    assert one_step.one_step_error(*laws, nobody) == 0.0
    spread = one_step.total_variation(target_probs, draft_probs)
    assert one_step.one_step_error(*laws, everybody) == pytest.approx(spread, abs=1e-12)
    assert one_step.acceptance_rate(*laws) == pytest.approx(1 - spread, abs=1e-12)


@given(two_laws(), st.data())
def test_delta_falls_as_the_threshold_rises(laws, data):
    score = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(laws[0]), max_size=len(laws[0]))))
    deltas = [one_step.one_step_error(*laws, (score >= tau).astype(float)) for tau in (0.0, 0.2, 0.5, 0.8, 1.1)]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(deltas))
    assert deltas[-1] == 0.0


@given(laws_and_gate())
def test_hard_label_bound_holds(case):
    share, false_positives = one_step.hard_label_rates(*case)
    assert one_step.one_step_error(*case) <= one_step.hard_label_bound(share, false_positives) + 1e-12


def test_hard_label_bound_is_tight_where_unacceptable_tokens_are_impossible():
    target_probs, draft_probs = [0.5, 0.5, 0.0, 0.0], [0.4, 0.2, 0.3, 0.1]
    vouched = [1.0, 1.0, 1.0, 0.0]
    share, false_positives = one_step.hard_label_rates(target_probs, draft_probs, vouched)
    assert (share, false_positives) == (pytest.approx(0.4), pytest.approx(0.75))
    bound = one_step.hard_label_bound(share, false_positives)
    assert one_step.one_step_error(target_probs, draft_probs, vouched) == pytest.approx(bound)


@settings(max_examples=40)
@given(two_laws(), st.floats(0, 1))
def test_no_gate_with_the_same_tested_share_has_a_smaller_delta(laws, tested_share):
    target_probs, draft_probs = laws
    best = one_step.least_error_gate(target_probs, draft_probs, tested_share)
    assert (draft_probs * (1 - best)).sum() == pytest.approx(tested_share, abs=1e-9)
    answer = linprog(
        np.maximum(draft_probs - target_probs, 0.0),
        A_eq=draft_probs[None, :],
        b_eq=[1.0 - tested_share],
        bounds=[(0.0, 1.0)] * len(draft_probs),
    )
    assert answer.success
    assert one_step.one_step_error(target_probs, draft_probs, best) == pytest.approx(answer.fun, abs=1e-7)


@given(two_laws(), st.floats(0, 1))
def test_the_best_gate_vouches_for_the_most_acceptable_tokens_first(laws, tested_share):
    gate = one_step.least_error_gate(*laws, tested_share)
    accept = one_step.acceptance_probs(*laws)
    drafted = laws[1] > 0
    for x, y in itertools.permutations(np.flatnonzero(drafted), 2):
        # A token in part untested means that every worse token is tested.
        if gate[x] < 1 - 1e-9 and accept[y] < accept[x]:
            assert gate[y] <= 1e-9


@given(laws_and_gate())
def test_no_gate_tests_less_than_the_limit(case):
    target_probs, draft_probs, vouched = case
    tested = float((draft_probs * (1 - vouched)).sum())
    alpha = one_step.acceptance_rate(target_probs, draft_probs)
    delta = one_step.one_step_error(*case)
    assert one_step.distance_to_limit(tested, alpha, delta) >= -1e-12


def test_an_oracle_on_hard_labels_reaches_the_limit():
    target_probs, draft_probs = np.array([0.6, 0.4, 0.0]), np.array([0.3, 0.4, 0.3])
    oracle = (one_step.acceptance_probs(target_probs, draft_probs) == 1.0).astype(float)
    tested = float(draft_probs @ (1 - oracle))
    alpha = one_step.acceptance_rate(target_probs, draft_probs)
    assert one_step.distance_to_limit(tested, alpha, 0.0) == pytest.approx(0.0)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_sequence_error_bound_covers_the_tv_of_whole_sequences(seed):
    """Every sequence of 3 tokens over 3 symbols, the laws depending on the whole prefix."""
    rng = np.random.default_rng(seed)
    vocab, length = 3, 3
    target_law: dict[tuple[int, ...], float] = {(): 1.0}
    method_law: dict[tuple[int, ...], float] = {(): 1.0}
    expected_delta = 0.0
    for _ in range(length):
        next_target, next_method = {}, {}
        for prefix, target_chance in target_law.items():
            target_probs, draft_probs = rng.dirichlet(np.ones(vocab)), rng.dirichlet(np.ones(vocab))
            vouched = rng.integers(0, 2, vocab).astype(float)
            emitted = one_step.one_step_law(target_probs, draft_probs, vouched)
            expected_delta += method_law[prefix] * one_step.one_step_error(target_probs, draft_probs, vouched)
            for token in range(vocab):
                next_target[(*prefix, token)] = target_chance * target_probs[token]
                next_method[(*prefix, token)] = method_law[prefix] * emitted[token]
        target_law, method_law = next_target, next_method
    gap = one_step.total_variation(list(target_law.values()), list(method_law.values()))
    assert gap <= one_step.sequence_error_bound([[expected_delta]]) + 1e-12


def test_sequence_error_bound_averages_over_trajectories_and_never_exceeds_one():
    assert one_step.sequence_error_bound([[0.1, 0.2], [0.3, 0.0]]) == pytest.approx(0.3)
    assert one_step.sequence_error_bound(np.full((2, 50), 0.5)) == 1.0


@pytest.mark.parametrize(
    ("target_probs", "draft_probs"), [([0.5, 0.5], [1.0]), ([0.5, 0.6], [0.5, 0.5]), ([1.0, 0.0], [1.5, -0.5])]
)
def test_what_is_no_law_is_refused(target_probs, draft_probs):
    with pytest.raises(ConfigError):
        one_step.acceptance_rate(target_probs, draft_probs)
