"""A budget for one text: never exceeded, whatever the verifier says, and the law is what theory says it is."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprinter.config import GenerationConfig
from sprinter.core.chance import Chance
from sprinter.core.protocols import Drafter, Gate, Recipe
from sprinter.core.records import Budget
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.hub import RepeatedDrafter
from sprinter.drafters.model import ModelDrafter
from sprinter.drafters.siblings import SiblingDrafter
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.gates.budget import BudgetGate
from sprinter.gates.fallback import FallbackGate
from sprinter.gates.fixed import FixedGate, OpenGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.observers.audit import Audit
from sprinter.rules.exact import ExactRule
from sprinter.rules.rollback import RollbackRule
from tests.support.enumeration import ScriptedChance, distance, exact_law, law_at, model_law
from tests.unit.test_exact_law import ConstantScorer, HashScorer

TARGET = ToyModel.random(4, 51, order=2)
SMALL = ToyModel.random(3, 53, order=2)
DRAFT = TARGET.near(52)
SURE = ConstantScorer(1.0)
GATES: dict[str, Gate] = {
    "all": OpenGate(),
    "sprinter": ThresholdGate(HashScorer(3), 0.3, 1.0, 5),
    "sure": ThresholdGate(SURE, 0.5, 1.0, None),
    "lookahead": ThresholdGate(HashScorer(5), 0.5, 0.1, 6),
    "risk": BudgetGate(HashScorer(6), 60, 6),
    "exact": FixedGate(3),
}
DRAFTERS: dict[str, Any] = {
    "one": ModelDrafter,
    "chunks": lambda m: ModelDrafter(m, 3),
    "siblings": lambda m: SiblingDrafter(m, 2, 0.0),
    "tree": lambda m: RepeatedDrafter(m, 2, 2),
}


def begun(
    engine: Engine, gate: Gate, drafter: Drafter, budget: Budget, chance: Chance, length: int, warmth: Sampling
) -> tuple[Text, Audit]:
    recipe = Recipe(gate, ExactRule(), drafter)
    audit = Audit.of(recipe, budget)
    text = Text([0], length, warmth, chance, Limits(engine.target.info.vocab_size, 4096))
    text.hold_to(audit.may_vouch)
    return engine.begin(text, recipe, [audit]), audit


def most_lost(text: Text, audit: Audit) -> tuple[float, float]:
    """What a text may have lost by now: what is audited, and one for each token that is final and is not."""
    seen = len(audit.tv_losses)
    atypical = sum(a and v for a, v in zip(audit.atypical, audit.vouched, strict=True))
    return sum(audit.tv_losses) + text.num_tokens - seen, atypical + text.num_tokens - seen


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("gate", GATES)
def test_no_text_exceeds_its_budget_at_any_tick_alone_or_in_company(gate: str, drafter: str) -> None:
    engine = Engine(TARGET)
    for budget in (Budget(2.5), Budget(atypical=1), Budget(4.0, 0), Budget(0.0)):
        parts = (GATES[gate], DRAFTERS[drafter](DRAFT), budget)
        warmths = [Sampling(), Sampling(0.0), Sampling(0.7)]
        texts = [begun(engine, *parts, Chance(seed), 25, warmths[seed % 3]) for seed in range(6)]
        for _ in range(400):
            engine.tick([text for text, _ in texts])
            for text, audit in texts:
                tv, atypical = most_lost(text, audit)
                assert tv <= budget.total_tv
                assert atypical <= budget.atypical
            if all(text.finish_reason is not None for text, _ in texts):
                break
        assert all(text.num_tokens == 25 for text, _ in texts)
        for text, audit in texts:
            engine.close_audit([text])
            report = audit.report(25)
            assert report.tokens_unaudited == 0
            assert (report.total_tv or 0.0) <= budget.total_tv
            assert report.vouched_atypical <= budget.atypical


def test_without_the_budget_these_texts_would_lose_more() -> None:
    engine = Engine(TARGET)
    lost = []
    for seed in range(6):
        text, audit = begun(engine, OpenGate(), ModelDrafter(DRAFT), Budget(), Chance(seed), 25, Sampling())
        engine.run([text])
        engine.close_audit([text])
        lost.append(audit.report(25).total_tv or 0.0)
    assert min(lost) > 2.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.floats(0, 6), st.integers(1, 40))
def test_a_text_ended_anywhere_has_kept_its_budget(seed: int, total: float, ticks: int) -> None:
    engine = Engine(TARGET)
    text, audit = begun(engine, GATES["sure"], ModelDrafter(DRAFT, 2), Budget(total), Chance(seed), 30, Sampling())
    for _ in range(ticks):
        if text.finish_reason is None:
            engine.tick([text])
    text.finish("cancelled")
    assert most_lost(text, audit)[0] <= total


@pytest.mark.parametrize("warmth", [Sampling(), Sampling(0.0), Sampling(0.8, top_p=0.9)], ids=str)
@pytest.mark.parametrize("gate", ["all", "sprinter", "lookahead"])
def test_a_budget_of_nothing_is_the_targets_own_law(gate: str, warmth: Sampling) -> None:
    def play(chance: ScriptedChance) -> Hashable:
        text, _ = begun(Engine(TARGET), GATES[gate], ModelDrafter(DRAFT), Budget(0.0), chance, 2, warmth)
        Engine(TARGET).run([text])
        return tuple(emitted.id for emitted in text.out)

    assert distance(exact_law(play), model_law(TARGET, warmth)) < 1e-9


@pytest.mark.parametrize("total", [1.0, 2.0])
@pytest.mark.parametrize("warmth", [Sampling(), Sampling(0.9, top_k=2)], ids=str)
def test_within_a_budget_the_audit_still_equals_the_total_variation(warmth: Sampling, total: float) -> None:
    """Vouching now depends on what was lost before. By enumeration: E[sum d] is the sum of the one-step distances."""

    def play(chance: ScriptedChance) -> Hashable:
        engine = Engine(SMALL)
        text, audit = begun(engine, GATES["sure"], ModelDrafter(SMALL.near(54)), Budget(total), chance, 3, warmth)
        engine.run([text])
        engine.close_audit([text])
        path = tuple(emitted.id for emitted in text.out)
        return path, tuple(audit.vouched), sum(audit.tv_losses)

    law: dict[Any, float] = exact_law(play)
    audited = sum(p * lost for (_, _, lost), p in law.items())
    # This gate vouches for all, so whether a place is vouched for is settled before its token is drawn.
    told = sum(
        p * distance_at(warmth, [0, *path[:place]])
        for (path, vouched, _), p in law.items()
        for place in range(3)
        if vouched[place]
    )
    assert audited == pytest.approx(told, abs=1e-9)
    assert max(lost for _, _, lost in law) <= total
    assert audited > 0


def distance_at(warmth: Sampling, context: list[int]) -> float:
    p, q = law_at(SMALL, warmth, context), law_at(SMALL.near(54), warmth, context)
    return sum(max(0.0, q.prob(x) - p.prob(x)) for x in range(3))


def test_a_rule_whose_losses_nobody_knows_is_refused_and_so_is_a_limit_below_nothing() -> None:
    recipe = Recipe(FallbackGate(0.5), RollbackRule(0.5, 0.1), ModelDrafter(DRAFT))
    with pytest.raises(ConfigError, match="every loss to be known"):
        Audit.of(recipe, Budget(3.0))
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="max_total_tv is"):
            GenerationConfig(max_total_tv=wrong)
