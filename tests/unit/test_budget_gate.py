"""The budget gate: what it may spend, and that one text knows nothing of the one before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprinter.config import DecodingConfig
from sprinter.core.sampling import Dice, Sampling
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine, Limits
from sprinter.errors import ConfigError
from sprinter.gates.budget import BudgetGate, RiskBudget
from sprinter.gates.confidence import Confidence
from sprinter.models.toy import ToyModel
from sprinter.observers.audit import Audit
from sprinter.rules.vouched import VouchedRule


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


def _engine(per_100: float) -> Engine:
    target = ToyModel.random(5, 0)
    gate = BudgetGate(Confidence(), per_100, 8)
    drafter = ModelDrafter(target.near(1), Sampling(), 5)
    return Engine(target, drafter, gate, VouchedRule(), Sampling(), Limits(5, 4096))


def _ids(engine: Engine, seed: int) -> list[tuple[int, str]]:
    run = engine.start([0], 60, Dice(np.random.default_rng(seed)), Audit())
    return [(e.id, e.origin) for e in run]


def test_a_text_does_not_depend_on_the_one_before() -> None:
    engine = _engine(20)
    first = _ids(engine, 3)
    _ids(engine, 4)
    assert _ids(engine, 3) == first
    assert {"vouched", "tested"} <= {origin for _, origin in first}


def test_a_larger_budget_asks_the_target_less_often() -> None:
    shares = [sum(o == "vouched" for _, o in _ids(_engine(b), 1)) for b in (0, 10, 40, 100)]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 60


def test_a_budget_beside_a_threshold_is_refused() -> None:
    with pytest.raises(ConfigError, match="threshold's place"):
        DecodingConfig(budget=5, threshold=0.5)
    with pytest.raises(ConfigError, match="belongs to sprinter"):
        DecodingConfig(method="exact", budget=5)
    with pytest.raises(ConfigError, match="between 0"):
        DecodingConfig(budget=-1)
