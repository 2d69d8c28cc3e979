"""Delayed fusion against enumeration, rescoring and textbook shallow fusion, on toy recognisers and language models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, product

import numpy as np
import pytest

from sprinter.core.rows import FloatArray
from sprinter.errors import ConfigError, DataError
from sprinter.fields.speech import Hypothesis, Search, Weights, WordScorer, trigger_of
from sprinter.models.toy import ToyModel

SYMBOLS = ("", "a", "b", " ")
ALL = ("never", "interval:1", "interval:3", "shortest", "word-end", "candidates")
DELAYED = ALL[:-1]
WEIGHTS = Weights(alpha=0.6, beta=0.4, rho=-0.2)
WIDE = 100_000


def encode(text: str) -> list[int]:
    return [1 + " ab".index(character) for character in text]


def scorer(seed: int = 5) -> WordScorer:
    return WordScorer(ToyModel.random(4, seed, order=3), encode, [0])


def matrix(seed: int, frames: int = 6) -> FloatArray:
    law = np.random.default_rng(seed).dirichlet(np.full(len(SYMBOLS), 0.7), frames)
    return np.log(law)


def searched(frames: FloatArray, fusion: str, weights: Weights, beam: int, own: WordScorer | None = None) -> Search:
    search = Search(SYMBOLS, own or scorer(), trigger_of(fusion), weights, beam)
    search.feed(frames)
    return search


def listed(found: Sequence[Hypothesis], weights: Weights) -> list[tuple[str, float]]:
    return [(each.text, pytest.approx(each.score(weights), abs=1e-9)) for each in found]


def enumerated(frames: FloatArray) -> dict[str, float]:
    """log p of every text by the sum over all paths."""
    mass: dict[str, float] = {}
    for path in product(range(len(SYMBOLS)), repeat=len(frames)):
        text = "".join(SYMBOLS[label] for label, _ in groupby(path))
        log_prob = sum(frames[step, label] for step, label in enumerate(path))
        mass[text] = float(np.logaddexp(mass.get(text, -np.inf), log_prob))
    return mass


def language(words: Sequence[str], seed: int = 5) -> float:
    """log p by the model's own laws, token by token."""
    model, total = ToyModel.random(4, seed, order=3), 0.0
    context = [0]
    for token in encode("".join(" " + word for word in words)):
        logits = model._logits_of(tuple(context))
        total += float(logits[token] - np.logaddexp.reduce(logits))
        context.append(token)
    return total


@pytest.mark.parametrize("fusion", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_an_unlimited_beam_scores_every_text_as_enumeration_does(fusion: str, seed: int) -> None:
    frames = matrix(seed, 5)
    found = searched(frames, fusion, WEIGHTS, WIDE).finish()
    expected = {
        text: mass + WEIGHTS.alpha * language(text.split()) + WEIGHTS.beta * len(text.split())
        for text, mass in enumerated(frames).items()
    }
    assert {each.text: each.score(WEIGHTS) for each in found} == pytest.approx(expected, abs=1e-9)
    assert [each.text for each in found] == sorted(expected, key=lambda text: -expected[text])


@pytest.mark.parametrize("seed", range(8))
def test_never_is_rescoring_of_the_recognisers_own_list(seed: int) -> None:
    own = searched(matrix(seed), "never", Weights(0, 0, 0), 6).finish()
    weights = Weights(alpha=0.6, beta=0.4)
    rescored = {e.text: e.acoustic + 0.6 * language(e.text.split()) + 0.4 * len(e.text.split()) for e in own}
    found = searched(matrix(seed), "never", weights, 6).finish()
    assert {each.text: each.score(weights) for each in found} == pytest.approx(rescored, abs=1e-9)
    assert [each.text for each in found] == sorted(rescored, key=lambda text: -rescored[text])


@pytest.mark.parametrize("seed", range(8))
def test_a_trigger_on_every_frame_is_word_end_and_a_late_one_is_never(seed: int) -> None:
    for one, other in (("interval:1", "word-end"), ("interval:7", "never")):
        first, second = (searched(matrix(seed), fusion, WEIGHTS, 5) for fusion in (one, other))
        assert [each.text for each in first.beam] == [each.text for each in second.beam]
        assert listed(first.finish(), WEIGHTS) == [(e.text, e.score(WEIGHTS)) for e in second.finish()]


@pytest.mark.parametrize("fusion", ALL)
def test_without_weights_the_language_model_is_not_asked(fusion: str) -> None:
    own, none = scorer(), Weights(0, 0, 0)
    found = searched(matrix(3), fusion, none, 5, own).finish()
    plain = searched(matrix(3), "never", none, 5).finish()
    assert (own.calls, own.tokens) == (0, 0)
    assert [each.text for each in found] == [each.text for each in plain]


@pytest.mark.parametrize("fusion", DELAYED)
def test_the_language_model_never_changes_a_beam_of_one(fusion: str) -> None:
    weights = Weights(alpha=0.6, beta=0.4)  # without rho, which would make a new word dearer than none by itself
    for seed in range(10):
        plain = searched(matrix(seed), "never", Weights(0, 0, 0), 1).finish()
        assert searched(matrix(seed), fusion, weights, 1).finish()[0].text == plain[0].text


def test_no_token_is_run_twice_whatever_the_order() -> None:
    asked = [("ab", "a"), ("ab", "b"), ("ab",), ("a", "ab", "a"), ("b",)]
    paths = [encode("".join(" " + word for word in words)) for words in asked]
    inner = {tuple(path[:size]) for path in paths for size in range(1, len(path))}
    for order in (asked, asked[::-1]):
        own = scorer()
        whole = [own.score_many([words])[0] for words in order]
        assert own.tokens == len(inner) + 1
        calls = own.calls
        assert own.score_many(order) == whole
        assert own.calls == calls
        assert whole == pytest.approx([language(words) for words in order], abs=1e-9)
        assert scorer().score_many(order) == pytest.approx(whole, abs=1e-12)


def test_after_a_trigger_of_shortest_all_are_fused_to_the_same_word() -> None:
    fused = 0
    for seed in range(10):
        search = Search(SYMBOLS, scorer(), trigger_of("shortest"), WEIGHTS, 4)
        for frame in matrix(seed, 12):
            before = min(each.fused for each in search.beam)
            search.feed(frame[None])
            if min(len(each.words) for each in search.beam) > before:
                assert {each.fused for each in search.beam} == {min(len(each.words) for each in search.beam)}
                fused += 1
    assert fused > 0


@pytest.mark.parametrize("fusion", ALL)
def test_no_word_stays_unpaid_and_a_last_space_is_no_word(fusion: str) -> None:
    found = searched(matrix(4), fusion, WEIGHTS, 30).finish()
    assert all(each.fused == len(each.text.split()) for each in found)
    assert any(each.text.endswith(" ") for each in found)


@pytest.mark.parametrize("fusion", ALL)
def test_chunks_give_what_the_whole_gives(fusion: str) -> None:
    frames = matrix(6, 8)
    whole = searched(frames, fusion, WEIGHTS, 5).finish()
    for cuts in ([1, 2, 3], [4], [0, 7]):
        search = Search(SYMBOLS, scorer(), trigger_of(fusion), WEIGHTS, 5)
        for chunk in np.split(frames, cuts):
            search.feed(chunk)
        assert search.finish() == whole


@pytest.mark.parametrize("wrong", ["", "often", "interval", "interval:0", "interval:x", "never:2"])
def test_an_unknown_trigger_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="must be one of"):
        trigger_of(wrong)


def test_frames_that_are_no_log_probabilities_are_refused() -> None:
    search = Search(SYMBOLS, scorer(), trigger_of("never"), WEIGHTS)
    for wrong in (np.zeros((2, 3)), np.full((1, 4), np.nan), np.ones((1, 4)), np.full((1, 4), -np.inf)):
        with pytest.raises(DataError, match=r"frame"):
            search.feed(wrong)
