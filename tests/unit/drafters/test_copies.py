"""Copying from references: found as defined, never in the way of the target's law, always with its source."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprinter.core.chance import Chance
from sprinter.core.protocols import Gate, Recipe, Rule
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.copies import CopyDrafter, CopySettings, Document, Index
from sprinter.drafters.either import EitherDrafter
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.gates.fixed import FixedGate, OnceGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule
from sprinter.rules.walk import WalkRule
from tests.support.enumeration import distance, law_at, model_law, output_law
from tests.unit.test_exact_law import ConstantScorer, HashScorer

IDS = st.lists(st.integers(0, 2), max_size=12)


def documents(*texts: Sequence[int]) -> list[Document]:
    return [Document(f"reference {n}", list(ids)) for n, ids in enumerate(texts, start=1)]


def by_definition(texts: Sequence[Sequence[int]], ending: Sequence[int], match: int) -> list[tuple[int, int]]:
    """(document, offset) behind every longest stretch of at most 5 and at least `match` ids, in reading order."""
    for length in range(min(5, len(ending)), match - 1, -1):
        found = [
            (number, offset)
            for number, ids in enumerate(texts)
            for offset in range(length, len(ids))
            if list(ids[offset - length : offset]) == list(ending[-length:])
        ]
        if found:
            return found
    return []


@given(st.lists(IDS, max_size=3), IDS, st.integers(1, 3))
def test_the_longest_ending_is_found_where_it_stood_last(texts: list[list[int]], ending: list[int], match: int) -> None:
    index = Index(documents(*texts), match)
    starts = np.cumsum([0, *(len(ids) + 1 for ids in texts)])
    wanted = [int(starts[number]) + offset for number, offset in by_definition(texts, ending, match)]
    assert index.find(ending) == (wanted[-1] if wanted else -1)
    for place in wanted:
        assert index.find(ending, going_on=place) == place
    if wanted:
        number, offset = by_definition(texts, ending, match)[-1]
        assert index.stretch(wanted[-1], 4) == texts[number][offset : offset + 4]


def written(target: ToyModel, texts: Sequence[Sequence[int]], how: tuple[int, int], eos: int = -1) -> Text:
    match, length = how
    drafter = CopyDrafter(documents(*texts), copies_prompt=True, match=match, length=length)
    limits = Limits(target.info.vocab_size, 64, frozenset({eos}))
    text = Text([0, 1, 2, 0, 1], 20, Sampling(0.0), Chance(0), limits)
    engine = Engine(target)
    engine.run([engine.begin(text, Recipe(OnceGate(), WalkRule(), drafter))])
    return text


@pytest.mark.parametrize("how", [(1, 20), (2, 8), (3, 4), (1, 2)], ids=str)
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("eos", [-1, 1, 3])
def test_hostile_references_change_no_greedy_text(how: tuple[int, int], seed: int, eos: int) -> None:
    rng = np.random.default_rng(seed)
    target = ToyModel.random(4, seed, order=1 + seed % 2)
    limits = Limits(4, 64, frozenset({eos}))
    plain = Text([0, 1, 2, 0, 1], 20, Sampling(0.0), Chance(0), limits)
    engine = Engine(target)
    engine.run([engine.begin(plain, Recipe(FixedGate(0), ExactRule()))])
    wanted = [emitted.id for emitted in plain.out]
    # At random, the text itself with errors, and the text itself.
    wrong = [token if rng.random() < 0.7 else int(rng.integers(4)) for token in wanted]
    texts = [rng.integers(0, 4, 40).tolist(), wrong, wanted * 2]
    made = written(target, texts, how, eos)
    assert [emitted.id for emitted in made.out] == wanted
    assert made.finish_reason == plain.finish_reason
    assert made.counters.target_calls <= plain.counters.target_calls


@pytest.mark.parametrize("texts", [[], [[]], [[1]], [[1], [0, 1]]], ids=str)
def test_references_too_short_to_match_copy_nothing(texts: list[list[int]]) -> None:
    drafter = CopyDrafter(documents(*texts), copies_prompt=False)
    target = ToyModel.random(4, 1)
    text = Text([0, 1], 10, Sampling(0.0), Chance(0), Limits(4, 64))
    engine = Engine(target)
    engine.run([engine.begin(text, Recipe(OnceGate(), WalkRule(), drafter))])
    assert [e.origin for e in text.out] == ["target"] * 10
    assert text.counters.target_calls == 10


Way = tuple[str, Callable[[], Gate], Rule, bool]
WAYS: list[Way] = [
    ("walk", OnceGate, WalkRule(), False),
    ("exact", lambda: FixedGate(3), ExactRule(), True),
    ("vouching for nobody", lambda: ThresholdGate(HashScorer(1), np.inf, 0.2, 3), ExactRule(), True),
]
REFERENCES = [[0, 1, 1, 2, 0, 2], [1, 1, 0]]


@pytest.mark.parametrize(("gate", "rule", "either"), [w[1:] for w in WAYS], ids=[w[0] for w in WAYS])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, top_p=0.9)], ids=str)
def test_copies_leave_the_joint_law_exact(
    gate: Callable[[], Gate], rule: Rule, either: bool, sampling: Sampling
) -> None:
    target = ToyModel.random(3, 3, order=1)
    copies = CopyDrafter(documents(*REFERENCES), copies_prompt=True, match=1, length=3)

    def drafter(draft: ToyModel) -> CopyDrafter | EitherDrafter:
        return EitherDrafter(draft, copies) if either else copies

    law = output_law((target, target.near(4)), gate, rule, sampling, num_tokens=4, drafter=drafter)
    assert distance(law, model_law(target, sampling, num_tokens=4)) < 1e-9


@pytest.mark.parametrize("vouches", [0.0, 1.0])
def test_the_one_step_error_of_a_vouched_copy_is_what_the_target_would_not_have_written(vouches: float) -> None:
    """TV = delta = E[v (1 - min(1, p/q))] with q one token: 1 - p(copied) where it is vouched for, 0 where tested."""
    target = ToyModel.random(3, 5, order=1)
    # The first token is the target's own: a lone ending of one token is then looked up.
    copies = CopyDrafter(documents([0, 1, 2, 2], [2, 0], [1, 1]), copies_prompt=False, match=1, length=2)
    gate = lambda: ThresholdGate(ConstantScorer(vouches), 0.5, max_draft=1)  # noqa: E731
    drafter = lambda draft: EitherDrafter(target, copies)  # noqa: E731
    law = output_law((target, target), gate, ExactRule(), Sampling(), num_tokens=2, drafter=drafter)
    for first in range(3):
        ending = CopyDrafter(copies._documents, False, 1, 2)._index().find([first])
        copied = copies._index().stretch(ending, 1)[0]
        after = np.array([law.get((first, second), 0.0) for second in range(3)])
        own = law_at(target, Sampling(), [0, first]).dense(3)
        distance_here = 0.5 * np.abs(after / after.sum() - own).sum()
        assert distance_here == pytest.approx((1 - own[copied]) * vouches, abs=1e-9)


def test_a_copied_token_says_where_it_stands() -> None:
    target = ToyModel.random(5, 2)
    text = Text([0], 30, Sampling(0.0), Chance(0), Limits(5, 64))
    engine = Engine(target)
    engine.run([engine.begin(text, Recipe(FixedGate(0), ExactRule()))])
    ids = [e.id for e in text.out]
    spans = [(3 * n, 3 * n + 3) for n in range(len(ids))]
    drafter = CopyDrafter([Document("noise", [4, 4, 4]), Document("own", ids, spans)], False)
    again = Text([0], 30, Sampling(0.0), Chance(0), Limits(5, 64))
    engine.run([engine.begin(again, Recipe(OnceGate(), WalkRule(), drafter))])
    copied = [e for e in again.out if e.source is not None]
    assert len(copied) > 10
    assert {e.origin for e in copied} == {"tested"}
    for emitted in copied:
        name, _, characters = str(emitted.source).partition(", characters ")
        first = int(characters.partition("-")[0])
        assert name == "own" and ids[first // 3] == emitted.id


def test_a_good_copy_is_gone_on_with_where_it_ended() -> None:
    """Two places with the same five ids: the one that was copied from goes on, not the later one."""
    same = [1, 2, 3, 1, 2, 3, 1, 2]
    index = Index(documents([*same, 0, 0], [*same, 4, 4]), 2)
    first, second = len(same), 2 * len(same) + 3
    assert index.find(same) == second
    assert index.find(same, going_on=first) == first
    assert index.find(same, going_on=3) == second


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"copy_match": 0}, "from 1 to 3"),
        ({"copy_match": 4}, "from 1 to 3"),
        ({"copy_length": 1}, "from 2 to 256"),
        ({"references": (" ",)}, "is empty"),
        ({"references": ("x" * (8 << 20), "y")}, "8388609 characters"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CopySettings(**settings).check()  # type: ignore[arg-type]


def test_a_text_among_others_copies_as_it_does_alone() -> None:
    target = ToyModel.random(6, 7)
    drafter = CopyDrafter(documents(*itertools.repeat([0, 1, 2, 3, 4, 5, 0, 2, 4], 2)), copies_prompt=True)
    engine, recipe = Engine(target), Recipe(OnceGate(), WalkRule(), drafter)

    def begun(seed: int) -> Text:
        return engine.begin(Text([seed % 6, 1], 25, Sampling(1.0), Chance(seed), Limits(6, 64)), recipe)

    alone = [begun(seed) for seed in range(8)]
    for text in alone:
        engine.run([text])
    together = [begun(seed) for seed in range(8)]
    engine.run(together)
    assert [text.out for text in together] == [text.out for text in alone]
