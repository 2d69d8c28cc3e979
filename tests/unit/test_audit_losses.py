"""What the audit says beyond total variation: the excess of atypical tokens, log-likelihood, repetition."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest

from sprinter.core.law import Law, acceptance
from sprinter.core.protocols import Recipe
from sprinter.core.rows import Part
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.gates.fixed import FixedGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.observers.audit import DEFICIT_CLIP, Audit, repeated_share, typical_floor
from sprinter.rules.exact import ExactRule
from tests.support.enumeration import ScriptedChance, distance, exact_law, law_at, model_law
from tests.unit.test_exact_law import HashScorer

TARGET = ToyModel.random(6, 61, order=1, spread=3.0)
DRAFT = TARGET.near(62, noise=2.0)
SAMPLINGS = [Sampling(), Sampling(0.0), Sampling(0.7, top_p=0.9), Sampling(1.3, top_k=3)]
GATE = ThresholdGate(HashScorer(8), 0.4, 1.0, 3)


def written(sampling: Sampling, keeps: bool = True, gate: Any = GATE, num: int = 1) -> dict[Any, float]:
    """The law of (tokens, d, excess, atypical, own, deficits) of a text of `num` tokens."""

    def play(chance: ScriptedChance) -> Hashable:
        recipe = Recipe(gate, ExactRule(), ModelDrafter(DRAFT))
        audit = Audit.of(recipe, keeps_drafts=keeps)
        text = Text([0], num, sampling, chance, Limits(6, 64))
        engine = Engine(TARGET)
        engine.run([engine.begin(text, recipe, [audit])])
        engine.close_audit([text])
        columns = (audit.tv_losses, audit.excess, audit.atypical, audit.own_atypical, audit.deficits)
        return tuple(e.id for e in text.out), *map(tuple, columns)

    return exact_law(play)


def atypical_mass(law: Law, logits: Any) -> float:
    floor = typical_floor(logits)
    return sum(law.prob(x) for x in range(6) if logits[x] <= floor)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_excess_is_unbiased_bounded_by_d_and_varies_less(sampling: Sampling) -> None:
    law = written(sampling)
    p, q = law_at(TARGET, sampling, [0]), law_at(DRAFT, sampling, [0])
    logits = TARGET.forward([Part(TARGET.open(), [0], 1)])[0].logits[0]
    floor = typical_floor(logits)
    vouched = [float(HashScorer(8).of([x]) >= 0.4) for x in range(6)]
    gained = [vouched[x] * max(0.0, q.prob(x) - p.prob(x)) for x in range(6)]
    lost = np.array([max(0.0, p.prob(x) - q.prob(x)) for x in range(6)])
    lost = lost / lost.sum() * sum(gained) if lost.sum() else lost
    told = sum(gained[x] - lost[x] for x in range(6) if logits[x] <= floor)
    mean = sum(chance * e[0] for (_, _, e, *_), chance in law.items())
    assert mean == pytest.approx(told, abs=1e-6)
    assert all(abs(e[0]) <= d[0] + 1e-9 for _, d, e, *_ in law)
    plain = sum(chance * (a[0] - own[0]) for (_, _, _, a, own, _), chance in law.items())
    assert plain == pytest.approx(told, abs=1e-6)
    spread = sum(chance * e[0] ** 2 for (_, _, e, *_), chance in law.items())
    naive = sum(chance * (a[0] - own[0]) ** 2 for (_, _, _, a, own, _), chance in law.items())
    assert spread <= naive + 1e-12
    if sampling == Sampling():
        assert abs(told) > 0.005, "the test is empty if vouching changes no atypical token"
        assert spread < naive / 1.5


def test_without_kept_laws_the_excess_is_known_only_where_the_draft_was_sure() -> None:
    known = written(Sampling(0.0), keeps=False)
    assert known == written(Sampling(0.0))
    unknown = [e[0] for _, d, e, *_ in written(Sampling(), keeps=False) if d[0] > 0]
    assert unknown
    assert all(map(math.isnan, unknown))
    audit = Audit()
    audit.excess = [0.0, math.nan]
    audit.tv_losses, audit.atypical, audit.vouched, audit.own_atypical = [0.0] * 2, [False] * 2, [True] * 2, [0.0] * 2
    audit.deficits, audit.tokens = [0.0] * 2, [1, 2]
    assert audit.report(2).mean_excess is None
    assert audit.report(1).mean_excess == 0.0


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_targets_own_tokens_have_no_deficit_on_average(sampling: Sampling) -> None:
    law = written(sampling, gate=FixedGate(2), num=2)
    assert distance({ids: 0.0 for ids, *_ in law} | _by_text(law), model_law(TARGET, sampling)) < 1e-6
    mean = sum(chance * sum(deficits) for (*_, deficits), chance in law.items())
    assert mean == pytest.approx(0.0, abs=2e-4)  # a few of the rarest tokens are clipped
    assert all(abs(deficit) <= DEFICIT_CLIP for *_, deficits in law for deficit in deficits)


def _by_text(law: dict[Any, float]) -> dict[Any, float]:
    texts: dict[Any, float] = {}
    for (ids, *_), chance in law.items():
        texts[ids] = texts.get(ids, 0.0) + chance
    return texts


def test_greedy_deficits_are_what_the_best_token_is_ahead() -> None:
    logits = TARGET.forward([Part(TARGET.open(), [0], 1)])[0].logits[0]
    for (ids, *_, deficits), _ in written(Sampling(0.0)).items():
        assert deficits[0] == pytest.approx(min(DEFICIT_CLIP, float(logits.max() - logits[ids[0]])), abs=1e-5)


@pytest.mark.parametrize(
    ("ids", "share"), [([], 0.0), ([1, 2, 3], 0.0), ([1] * 8, 0.8), ([1, 2, 3, 4, 1, 2, 3, 4], 0.2), ([*range(9)], 0.0)]
)
def test_repetition_is_the_share_of_stretches_seen_before(ids: list[int], share: float) -> None:
    assert repeated_share(ids) == pytest.approx(share)


def test_acceptance_of_these_toys_is_neither_sure_nor_hopeless() -> None:
    p, q = law_at(TARGET, Sampling(), [0]), law_at(DRAFT, Sampling(), [0])
    assert 0.2 < sum(q.prob(x) * acceptance(x, p, q) for x in range(6)) < 0.95
