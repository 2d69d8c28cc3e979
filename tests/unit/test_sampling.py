"""The sampling transform against transformers' own processors, laws, and chance by place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sprinter.core.chance import ACCEPT, DRAFT, OWN, Chance
from sprinter.core.law import Law, acceptance, draw, residual
from sprinter.core.sampling import Sampling
from sprinter.errors import ConfigError

WIDTH = 40


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    """Logits [WIDTH] without ties and without sums that land on a threshold: there, rounding decides."""
    seed, spread = draw(st.integers(0, 2**32 - 1)), draw(st.floats(0.1, 12))
    return np.random.default_rng(seed).normal(0, spread, WIDTH)


transforms = st.builds(
    Sampling,
    temperature=st.floats(0.2, 3),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 20, WIDTH, 1000]),
    top_p=st.sampled_from([1.0, 1.0, 0.999, 0.9, 0.5, 0.1, 1e-6]),
    min_p=st.sampled_from([0.0, 0.0, 0.01, 0.1, 0.5, 0.99]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.2, 3.0, 0.5]),
)


def reference(sampling: Sampling, logits: np.ndarray, context: list[int]) -> np.ndarray:
    """Probabilities [WIDTH] as transformers' generate would compute them, in float64."""
    steps = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(MinPLogitsWarper(sampling.min_p))
    scores = steps(torch.tensor([context], dtype=torch.long), torch.tensor(logits)[None].clone())
    return scores.softmax(-1)[0].numpy()


@settings(max_examples=300)
@given(sampling=transforms, logits=rows(), context=st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=8))
def test_the_law_is_the_one_transformers_would_sample_from(
    sampling: Sampling, logits: np.ndarray, context: list[int]
) -> None:
    law = sampling.law(logits, context)
    np.testing.assert_allclose(law.dense(WIDTH), reference(sampling, logits, context), rtol=1e-9, atol=1e-15)


@settings(max_examples=150)
@given(
    sampling=transforms,
    logits=rows(),
    context=st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=8),
    kept=st.sets(st.integers(0, WIDTH - 1), min_size=1),
)
def test_a_head_over_part_of_the_vocabulary_has_the_law_of_a_full_head_that_bans_the_rest(
    sampling: Sampling, logits: np.ndarray, context: list[int], kept: set[int]
) -> None:
    ids = np.array(sorted(kept), np.int64)
    full = np.full(WIDTH, -np.inf)
    full[ids] = logits[ids]
    part = sampling.law(logits[ids], context, ids)
    assert set(np.arange(WIDTH)[part.dense(WIDTH) > 0]) <= kept
    np.testing.assert_allclose(part.dense(WIDTH), sampling.law(full, context).dense(WIDTH), rtol=1e-9, atol=1e-15)


@settings(max_examples=100)
@given(sampling=transforms, logits=rows(), dtype=st.sampled_from([np.float32, np.float64]))
def test_a_law_sums_to_one_and_leaves_its_logits_alone(sampling: Sampling, logits: np.ndarray, dtype: Any) -> None:
    logits = logits.astype(dtype)
    before = logits.copy()
    law = sampling.law(logits, [1, 2, 3])
    assert law.probs.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5 if dtype is np.float32 else 1e-12)
    assert law.ids is None or (np.diff(law.ids) > 0).all()
    np.testing.assert_array_equal(logits, before)


def test_greedy_takes_the_first_of_equally_good_tokens_after_penalty_and_bans() -> None:
    logits = np.array([5.0, 5.0, 4.9, 0.0])
    assert Sampling(0).law(logits, []).token_at(0) == 0
    assert Sampling(0, banned=(0,)).law(logits, []).token_at(0) == 1
    assert Sampling(0, repetition_penalty=1.5).law(logits, [0, 1]).token_at(0) == 2


def test_a_banned_token_has_no_chance() -> None:
    law = Sampling(1.0, banned=(1, 3, 900)).law(np.zeros(4), [])
    np.testing.assert_array_equal(law.dense(4), [0.5, 0, 0.5, 0])


def test_a_temperature_near_zero_is_greedy_and_no_number_overflows() -> None:
    with np.errstate(over="raise", invalid="raise"):
        law = Sampling(1e-6).law(np.array([3e4, 2.9e4, -3e4], np.float32), [])
    np.testing.assert_array_equal(law.dense(3), [1, 0, 0])


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"min_p": 1.0},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("nan")},
        {"banned": (-1,)},
    ],
)
def test_values_out_of_range_are_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Sampling(**setting)


def test_draws_follow_the_law() -> None:
    """Chi-square at level 1e-4 over 60000 draws: a shift of 1.5% of the mass is found with power above 0.99."""
    law = Law(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625]), np.array([3, 5, 9, 11, 40]))
    draws, level, shift = 60000, 1e-4, 0.015
    noncentrality = draws * (shift**2 / 0.5 + shift**2 / 0.25)
    assert stats.ncx2.sf(stats.chi2.isf(level, 4), 4, noncentrality) > 0.99
    chance = Chance(1)
    found = np.array([chance.draw(law, place // 7, place % 7, DRAFT) for place in range(draws)])
    counts = [(found == token).sum() for token in law.ids]
    assert sum(counts) == draws
    assert stats.chisquare(counts, law.probs * draws).pvalue > level


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.9999999999999999])
@given(
    weights=hnp.arrays(np.float32, st.integers(2, 30), elements=st.sampled_from([0, 0, 1e-30, 1e-7, 0.3, 1.0])).filter(
        lambda w: w.sum() > 0
    )
)
def test_a_token_without_probability_is_never_drawn(uniform: float, weights: np.ndarray) -> None:
    law = Law(weights / weights.sum())
    assert law.probs[draw(law, uniform)] > 0


@given(
    st.integers(0, 2**70),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.sampled_from([DRAFT, ACCEPT, OWN]))),
)
def test_chance_is_a_matter_of_the_place_and_not_of_the_order(seed: int, places: list[tuple[int, int, int]]) -> None:
    once, again = Chance(seed), Chance(seed)
    forwards = [once.uniform(*place) for place in places]
    assert [again.uniform(*place) for place in reversed(places)] == forwards[::-1]
    assert all(0 <= number < 1 for number in forwards)


def test_chance_is_uniform_and_every_place_has_its_own() -> None:
    """Kolmogorov-Smirnov at level 1e-4, and Spearman correlations of neighbours within five standard errors."""
    places = [(r, n, purpose) for r in range(60) for n in range(60) for purpose in (DRAFT, ACCEPT, OWN)]
    numbers = np.array([Chance(5).uniform(*place) for place in places])
    assert len(set(numbers.tolist())) == len(numbers)
    assert stats.kstest(numbers, "uniform").pvalue > 1e-4
    for step in (1, 3, 180):
        assert abs(stats.spearmanr(numbers[step:], numbers[:-step]).statistic) < 5 / len(numbers) ** 0.5
    other = np.array([Chance(6).uniform(*place) for place in places])
    assert abs(stats.spearmanr(numbers, other).statistic) < 5 / len(numbers) ** 0.5


def test_what_is_certain_is_always_accepted_and_what_is_impossible_never() -> None:
    assert all(Chance(0).accept(1.0, place, 0) for place in range(1000))
    assert not any(Chance(0).accept(0.0, place, 0) for place in range(1000))


@given(seed=st.integers(0, 2**32 - 1), cut=st.sampled_from([0, 2, 5]))
def test_the_residual_is_the_normalised_positive_part(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    target, draft = Sampling(1.0, cut).law(rng.normal(0, 2, 12), []), Sampling(1.0, cut).law(rng.normal(0, 2, 12), [])
    excess = np.maximum(target.dense(12) - draft.dense(12), 0)
    np.testing.assert_allclose(residual(target, draft).dense(12), excess / excess.sum(), rtol=1e-9, atol=1e-15)
    overlap = sum(draft.prob(t) * acceptance(t, target, draft) for t in range(12))
    assert overlap == pytest.approx(1 - excess.sum(), abs=1e-12)


def test_equal_laws_leave_the_target_itself_as_residual() -> None:
    law = Law(np.array([0.25, 0.75]))
    np.testing.assert_allclose(residual(law, law).dense(2), [0.25, 0.75])


@pytest.mark.parametrize("target_ids", [None, [2], [1, 5, 9], list(range(1, 40, 2))])
@pytest.mark.parametrize("draft_ids", [None, [2], [0, 5, 9, 39, 45], list(range(0, 40, 3))])
def test_the_residual_does_not_depend_on_how_laws_are_stored(
    target_ids: list[int] | None, draft_ids: list[int] | None
) -> None:
    rng = np.random.default_rng(0)

    def law(ids: list[int] | None) -> Law:
        probs = rng.random(40 if ids is None else len(ids)).astype(np.float32)
        return Law(probs / probs.sum(), None if ids is None else np.array(ids, np.int64))

    p, q = law(target_ids), law(draft_ids)
    excess = np.maximum(p.dense(50) - q.dense(50), 0)
    wanted = excess / excess.sum(dtype=np.float64) if excess.any() else p.dense(50)
    np.testing.assert_allclose(residual(p, q).dense(50), wanted, rtol=1e-6)
    assert [q.prob(t) for t in range(50)] == q.dense(50).tolist()
    assert q.at(np.array([2, 9, 45]), 3).tolist() == [q.prob(2), q.prob(9), q.prob(45)]
