"""The budget gate: what it may spend, and that one text knows nothing of the one before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprinter.config import DecodingConfig
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.gates.budget import BudgetGate, RiskBudget
from sprinter.gates.confidence import Confidence
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule


@given(st.lists(st.floats(0, 1), max_size=300), st.floats(0, 100))
def test_accumulated_risk_never_exceeds_the_budget(scores: list[float], per_100: float) -> None:
    budget = RiskBudget(per_100)
    spent = 0.0
    for count, score in enumerate(scores, 1):
        if budget.admits(score):
            spent += 1 - score
        assert spent <= count * per_100 / 100 + 1e-6


def test_a_full_budget_vouches_for_all_and_an_empty_one_only_for_certainty() -> None:
    assert all(RiskBudget(100).admits(s) for s in (0.0, 0.5, 1.0))
    assert [RiskBudget(0).admits(s) for s in (0.999, 1.0)] == [False, True]


def test_saved_credit_covers_a_larger_risk_later() -> None:
    budget = RiskBudget(10)
    assert not budget.admits(0.75)
    assert not budget.admits(0.75)
    assert budget.admits(0.75)  # three tokens have brought 0.3


def _recipe(per_100: float) -> tuple[Engine, Recipe]:
    target = ToyModel.random(5, 0)
    gate = BudgetGate(Confidence(), per_100, 8)
    return Engine(target), Recipe(gate, ExactRule(), ModelDrafter(target.near(1)))


def _begin(engine: Engine, recipe: Recipe, seed: int) -> Text:
    return engine.begin(Text([0], 60, Sampling(), Chance(seed), Limits(5, 4096)), recipe)


def _ids(engine: Engine, recipe: Recipe, seed: int) -> list[tuple[int, str]]:
    text = _begin(engine, recipe, seed)
    engine.run([text])
    return [(e.id, e.origin) for e in text.out]


def test_a_text_depends_neither_on_the_one_before_nor_on_the_one_beside() -> None:
    engine, recipe = _recipe(20)
    first = _ids(engine, recipe, 3)
    _ids(engine, recipe, 4)
    assert _ids(engine, recipe, 3) == first
    texts = [_begin(engine, recipe, seed) for seed in (3, 4, 5)]
    engine.run(texts)
    assert [(e.id, e.origin) for e in texts[0].out] == first
    assert {"vouched", "tested"} <= {origin for _, origin in first}


def test_a_larger_budget_asks_the_target_less_often() -> None:
    shares = [sum(o == "vouched" for _, o in _ids(*_recipe(b), 1)) for b in (0, 10, 40, 100)]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 60


def test_a_budget_beside_a_threshold_is_refused() -> None:
    with pytest.raises(ConfigError, match="threshold's place"):
        DecodingConfig(budget=5, threshold=0.5)
    with pytest.raises(ConfigError, match="belongs to sprinter"):
        DecodingConfig(method="exact", budget=5)
    with pytest.raises(ConfigError, match="between 0"):
        DecodingConfig(budget=-1)
