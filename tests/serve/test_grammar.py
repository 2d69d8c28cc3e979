"""Answers of a stated form: the target's law given the form, whatever the draft proposes."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from sprinter.core.sampling import Sampling
from sprinter.drafters.hub import HubDrafter
from sprinter.drafters.model import ModelDrafter
from sprinter.gates.fixed import FixedGate, OnceGate
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule
from sprinter.rules.hub import HubRule
from sprinter.serve.grammar import Constrained, constrained, grammar_of
from sprinter.serve.requests import AsGrammar, AsObject
from tests.serve.conftest import Served, serving, toy_sprinter
from tests.support.enumeration import distance, model_law, output_law


@pytest.fixture(scope="module")
def ending() -> Iterator[Served]:
    """A server whose model has a token that ends a text, 11."""
    with serving(sprinter=toy_sprinter(eos=(11,))) as found:
        yield found


class Rising:
    """A form for toys: no token is smaller than the one before."""

    def allowed(self, context: Sequence[int]) -> Any:
        written = context[1:]
        if any(a > b for a, b in itertools.pairwise(written)):
            return None
        return np.arange(3) >= (written[-1] if written else 0)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_a_constrained_text_has_the_targets_law_given_the_form(temperature: float) -> None:
    target = ToyModel.random(3, 5, order=2)
    sampling = Constrained(temperature, matcher=Rising())  # type: ignore[arg-type]
    wanted = model_law(target, sampling, 3)
    assert all(list(text) == sorted(text) for text in wanted)  # type: ignore[call-overload]
    for gate, rule, drafter in (
        (lambda: FixedGate(2), ExactRule(), ModelDrafter),
        (OnceGate, HubRule(), lambda d: HubDrafter(d, 2, 2)),
    ):
        law = output_law((target, target.near(6)), gate, rule, sampling, 3, drafter=drafter)  # type: ignore[arg-type]
        assert distance(law, wanted) < 1e-9


def test_a_draft_that_knows_nothing_allowed_drafts_what_will_not_stand() -> None:
    logits, head = np.zeros(2), np.array([0, 1])

    class Only:
        def allowed(self, context: Sequence[int]) -> Any:
            return np.array([False, False, True])

    sampling = Constrained(1.0, matcher=Only())  # type: ignore[arg-type]
    assert sampling.law(logits, (), head).probs.tolist() == [0.5, 0.5]
    assert sampling.law(np.zeros(3), ()).prob(2) == 1.0


def test_masks_follow_a_text_that_is_taken_back() -> None:
    tokenizer = toy_sprinter(eos=(11,)).pair.tokenizer
    grammar = grammar_of(AsGrammar(type="regex", pattern="(w1|w2w4|x)+"), tokenizer)
    assert grammar is not None
    matcher = constrained(Sampling(), grammar, tokenizer, 1).matcher
    assert matcher is not None
    for text, allowed in (
        ((), {1, 2}),
        ((2,), {4}),
        ((2, 4), {1, 2, 11}),
        ((1,), {1, 2, 11}),
        ((1, 1, 2), {4}),
        ((2, 1), None),
        ((2,), {4}),
        ((0,), None),
    ):
        mask = matcher.allowed([7, *text])
        assert (None if mask is None else set(np.flatnonzero(mask).tolist())) == allowed, text


def test_the_server_keeps_the_form(ending: Served) -> None:
    # The x, which no word here can write, keeps the next bytes open: llguidance would cut forced ones by a tokenizer
    # that knows every byte, and this one knows whole words.
    form = {"type": "regex", "pattern": "(w1|x)(w2|w4|x){0,6}(w5|x)"}
    for seed in range(6):
        answer = ending.complete("w1", max_tokens=20, seed=seed, response_format=form).json()
        text = answer["choices"][0]["text"].replace(" ", "")
        assert re.fullmatch("w1(w2|w4){0,6}w5w11", text), text  # w11 ends a text, and has one here


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"type": "regex", "pattern": "("}, "response_format"),
        ({"type": "grammar", "pattern": "start: nothing"}, "nothing"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nope"}}}, "nope"),
        ({"type": "json_schema"}, "json_schema"),
        ({"type": "prose"}, "response_format"),
    ],
)
def test_a_form_that_says_nothing_sound_is_refused(ending: Served, form: dict[str, Any], words: str) -> None:
    answer = ending.complete("w1", response_format=form)
    assert (answer.status_code, words in json.dumps(answer.json())) == (400, True), answer.text


def test_a_form_belongs_to_exact_contracts(ending: Served) -> None:
    answer = ending.complete("w1", response_format={"type": "json_object"}, sprinter={"contract": "best_effort"})
    assert (answer.status_code, "contract 'exact'" in answer.text) == (400, True)
    assert grammar_of(AsObject(type="json_object"), toy_sprinter(eos=(11,)).pair.tokenizer)
    assert not Sampling().reads_context


def test_a_model_that_cannot_end_a_text_keeps_no_form(served: Served) -> None:
    answer = served.complete("w1", response_format={"type": "json_object"})
    assert (answer.status_code, "no token that ends" in answer.text) == (400, True)
