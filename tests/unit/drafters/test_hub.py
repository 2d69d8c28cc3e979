"""Trees with several tokens a place: the target's law whatever is drafted, accepted as often as the formulas say."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprinter.config import DecodingConfig
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe, Rule
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.hub import DistinctDrafter, HubDrafter, RepeatedDrafter, TreeDrafter
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.gates.fixed import FixedGate, OnceGate
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule
from sprinter.rules.hub import HubRule
from sprinter.theory.hub import hub_acceptance, rrs_acceptance, rrsw_acceptance
from tests.support.enumeration import ScriptedChance, distance, exact_law, model_law, output_law

Way = tuple[type[TreeDrafter], Callable[[], Rule]]
WAYS: dict[str, Way] = {
    "hub": (HubDrafter, HubRule),
    "rrs": (RepeatedDrafter, ExactRule),
    "rrsw": (DistinctDrafter, ExactRule),
}
ACCEPTANCE = {"hub": hub_acceptance, "rrs": rrs_acceptance, "rrsw": rrsw_acceptance}


def fractions(weights: list[int]) -> list[Fraction]:
    return [Fraction(w, sum(weights)) for w in weights]


def hub_in_rationals(p: list[Fraction], q: list[Fraction]) -> tuple[list[Fraction], Fraction]:
    """(law, acceptance) of the paper's five decisions, summed over all pairs."""
    a = q.index(max(q))
    rest = [i for i in range(len(q)) if i != a and q[i] > 0]
    w = {i: q[a] * q[i] / (1 - q[a]) for i in rest}
    p1 = {i: max(p[i] - q[i], Fraction(0)) for i in rest}
    s1 = sum(max(q[i] - p[i], Fraction(0)) for i in rest)
    p2 = {i: max(p1[i] - w[i], Fraction(0)) for i in rest}
    s2 = sum(max(w[i] - p1[i], Fraction(0)) for i in rest)
    law, refused = [Fraction(0)] * len(p), Fraction(0)
    for i in rest:
        for mass, wanted, other in (
            (q[i], p[i], max(p[a] - s2, Fraction(0)) / s1 if s1 else Fraction(0)),
            (w[i], p1[i], p[a] / s2 if s2 else Fraction(0)),
        ):
            first = min(Fraction(1), wanted / mass)
            second = (1 - first) * min(Fraction(1), other)
            law[i] += mass * first
            law[a] += mass * second
            refused += mass * (1 - first - second)
    accepted = 1 - refused
    outside = [p[i] if i != a and i not in rest else Fraction(0) for i in range(len(p))]
    left = sum(p2.values()) + sum(outside)
    for i in range(len(p)):
        law[i] += refused * (p2.get(i, Fraction(0)) + outside[i]) / left if left else Fraction(0)
    return law, accepted


def same_everywhere(law: np.ndarray) -> ToyModel:
    with np.errstate(divide="ignore"):
        logits = np.log(law)
    return ToyModel(lambda context: logits, len(law))


def one_step(way: Way, p: np.ndarray, q: np.ndarray, branches: int) -> tuple[dict[object, float], float]:
    """(law of one token, chance that it is a drafted one) on the real engine, by enumeration."""
    target, draft = (same_everywhere(law) for law in (p, q))
    drafter, rule = way
    accepted = 0.0

    def play(chance: ScriptedChance) -> object:
        nonlocal accepted
        recipe = Recipe(OnceGate(), rule(), drafter(draft, branches, 1))
        text = Text([0], 2, Sampling(), chance, Limits(len(p), 64))
        engine = Engine(target)
        engine.begin(text, recipe)
        engine.tick([text])
        accepted += chance.probability * (text.out[0].origin == "tested")
        return text.out[0].id

    return exact_law(play), accepted


LAWS = st.lists(st.integers(1, 9), min_size=3, max_size=6)


@settings(max_examples=60)
@given(LAWS, st.data())
def test_the_hub_transport_has_the_target_s_law_and_the_acceptance_of_the_closed_form(
    weights: list[int], data: st.DataObject
) -> None:
    q = fractions(weights)
    p = fractions(data.draw(st.lists(st.integers(0, 9), min_size=len(q), max_size=len(q)).filter(any)))
    law, accepted = hub_in_rationals(p, q)
    assert law == p
    a = q.index(max(q))
    assert accepted == p[a] + sum(min(p[i], q[i] / (1 - q[a])) for i in range(len(q)) if i != a)
    floats = np.array(p, float), np.array(q, float)
    assert hub_acceptance(*floats) == pytest.approx(float(accepted), abs=1e-12)
    ours, chance = one_step(WAYS["hub"], *floats, branches=2)
    assert chance == pytest.approx(float(accepted), abs=1e-9)
    for token, wanted in enumerate(p):
        assert ours.get(token, 0.0) == pytest.approx(float(wanted), abs=1e-9)


@pytest.mark.parametrize(
    ("way", "branches"), [("hub", 2), ("hub", 3), ("hub", 4), ("rrs", 2), ("rrs", 3), ("rrsw", 2), ("rrsw", 3)]
)
def test_one_step_has_the_target_s_law_and_the_stated_acceptance(way: str, branches: int) -> None:
    rng = np.random.default_rng(branches)
    for _ in range(3):
        p, q = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4))
        law, accepted = one_step(WAYS[way], p, q, branches)
        for token, wanted in enumerate(p):
            assert law.get(token, 0.0) == pytest.approx(wanted, abs=1e-9)
        if way != "rrsw" or branches == 2:
            assert accepted == pytest.approx(ACCEPTANCE[way](p, q, branches), abs=1e-9)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, top_p=0.8), Sampling(1.0, top_k=1)], ids=str)
def test_trees_of_two_levels_have_the_target_s_joint_law(way: str, sampling: Sampling) -> None:
    target = ToyModel.random(2 if way == "rrs" else 3, 11, order=1)
    drafter, rule = WAYS[way]
    law = output_law(
        (target, target.near(12)), OnceGate, rule(), sampling, num_tokens=2, drafter=lambda d: drafter(d, 2, 2)
    )
    assert distance(law, model_law(target, sampling, num_tokens=2)) < 1e-9


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (3, 3), (4, 2)], ids=str)
@pytest.mark.parametrize("eos", [-1, 2])
def test_greedy_trees_write_what_the_target_writes(way: str, shape: tuple[int, int], eos: int) -> None:
    drafter, rule = WAYS[way]
    for seed in range(4):
        target = ToyModel.random(6, seed, order=2)
        limits, engine = Limits(6, 40, frozenset({eos})), Engine(target)
        plain, made = (Text([1, seed], 30, Sampling(0.0), Chance(0), limits) for _ in range(2))
        engine.run([engine.begin(plain, Recipe(FixedGate(0), ExactRule()))])
        engine.run([engine.begin(made, Recipe(OnceGate(), rule(), drafter(target.near(seed + 50), *shape)))])
        assert [e.id for e in made.out] == [e.id for e in plain.out]
        assert made.finish_reason == plain.finish_reason
        assert made.counters.target_calls < plain.counters.target_calls


def test_a_draft_that_is_the_target_stands_to_the_bottom_of_every_tree() -> None:
    target = ToyModel.random(8, 3, order=2)
    text = Text([1], 40, Sampling(1.0), Chance(5), Limits(8, 64))
    engine = Engine(target)
    engine.run([engine.begin(text, Recipe(OnceGate(), ExactRule(), RepeatedDrafter(target, 2, 4)))])
    assert [e.origin for e in text.out] == (["tested"] * 4 + ["bonus"]) * 8
    assert text.counters.target_calls == 8


def test_where_the_draft_is_sure_there_is_only_the_hub() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, 0.0])
    law, accepted = one_step(WAYS["hub"], p, q, 2)
    assert accepted == pytest.approx(0.5, abs=1e-9)
    assert [law[token] for token in range(3)] == pytest.approx(p.tolist(), abs=1e-9)


def test_the_formulas_on_a_case_worked_by_hand() -> None:
    p, q = np.array([0.3, 0.3, 0.25, 0.15]), np.array([0.5, 0.3, 0.15, 0.05])
    assert rrs_acceptance(p, q, 1) == pytest.approx(0.80)
    assert rrs_acceptance(p, q) == pytest.approx(0.84)
    assert rrsw_acceptance(p, q) == pytest.approx(0.88)
    assert hub_acceptance(p, q) == pytest.approx(0.95)
    flat, half = np.full(10, 0.1), np.array([0.2] * 5 + [0.0] * 5)
    assert hub_acceptance(half, flat) == pytest.approx(0.644, abs=5e-4)
    assert rrs_acceptance(half, flat) == pytest.approx(0.75)
    assert rrsw_acceptance(half, flat) == pytest.approx(0.778, abs=5e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"branches": 1}, "from 2 to"), ({"depth": 0}, "at least 1"), ({"branches": 4, "depth": 9}, "at most 256")],
)
def test_a_shape_out_of_range_is_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DecodingConfig(method="spechub", **change)  # type: ignore[arg-type]
