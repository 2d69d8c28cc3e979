"""Every drafter under every gate: siblings are never vouched for, and what is vouched for costs what theory says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from sprinter.config import DecodingConfig
from sprinter.core.chance import Chance
from sprinter.core.protocols import Drafter, Recipe
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.core.tree import Proposal, Tree
from sprinter.drafters.copies import CopyDrafter, Document
from sprinter.drafters.either import EitherDrafter
from sprinter.drafters.graph import GraphDrafter, GraphSettings
from sprinter.drafters.hub import DistinctDrafter, HubDrafter, RepeatedDrafter
from sprinter.drafters.model import ModelDrafter
from sprinter.drafters.siblings import SiblingDrafter
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.gates.base import ChainGate
from sprinter.gates.confidence import Confidence
from sprinter.gates.fixed import FixedGate, OnceGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.observers.audit import Audit
from sprinter.rules.exact import ExactRule
from sprinter.rules.hub import HubRule
from sprinter.rules.walk import WalkRule
from tests.support.enumeration import distance, exact_law, law_at, model_law, output_law
from tests.unit.test_exact_law import HashScorer

GRAPH = GraphSettings(graph_width=2, graph_depth=3, graph_ratio=0.0, graph_floor=0.0)
DRAFTERS: dict[str, Callable[[ToyModel], Drafter]] = {
    "model": lambda m: ModelDrafter(m, 2),
    "either": lambda m: EitherDrafter(m, CopyDrafter([Document("r", [0, 1, 1, 2, 0, 2])], False, 1, 4)),
    "graph": lambda m: GraphDrafter(m, GRAPH),
    "hub": lambda m: HubDrafter(m, 2, 2),
    "rrs": lambda m: RepeatedDrafter(m, 2, 2),
    "rrsw": lambda m: DistinctDrafter(m, 2, 2),
    "siblings": lambda m: SiblingDrafter(m, 2, 0.0),
}
RULES = {"exact": ExactRule, "hub": HubRule, "walk": WalkRule}


class FirstGate(ChainGate):
    """Vouches for the first token of a round and for no other."""

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        return None, not text.tree.scores

    def wants_more(self, tree: Tree) -> bool:
        return len(tree.scores) < 2


def first_law(target: ToyModel, drafter: Callable[[ToyModel], Drafter], sampling: Sampling) -> dict[Any, float]:
    """The law of the first token that is drafted, by enumeration of the drafter alone."""

    def play(chance: Any) -> int:
        text = Text([0], 4, sampling, chance, Limits(target.info.vocab_size, 64))
        drafter(target).grow([text])
        return text.tree.tokens[0]

    return exact_law(play)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.0), Sampling(0.8, top_p=0.9)], ids=str)
@pytest.mark.parametrize("name", DRAFTERS)
def test_behind_a_vouched_token_comes_the_targets_own_law(name: str, sampling: Sampling) -> None:
    target, drafter = ToyModel.random(3, 21, order=2), DRAFTERS[name]
    draft = target.near(22)
    first = first_law(draft, drafter, sampling)
    wanted = {(x, y): q * law_at(target, sampling, [0, x]).prob(y) for x, q in first.items() for y in range(3)}
    for rule_name, rule in RULES.items():
        law = output_law((target, draft), FirstGate, rule(), sampling, 2, drafter=drafter)
        assert distance(law, wanted) < 1e-9, rule_name


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.0)], ids=str)
@pytest.mark.parametrize("name", DRAFTERS)
def test_the_one_step_error_of_vouching_is_delta_for_every_drafter(
    name: str, sampling: Sampling, threshold: float
) -> None:
    target, drafter, scorer = ToyModel.random(4, 31, order=1), DRAFTERS[name], HashScorer(4)
    draft = target.near(32)
    p, q = law_at(target, sampling, [0]), first_law(draft, drafter, sampling)
    delta = sum(max(0.0, mass - p.prob(x)) for x, mass in q.items() if scorer.of([x]) >= threshold)
    law = output_law(
        (target, draft),
        lambda: ThresholdGate(scorer, threshold, max_draft=1),
        ExactRule(),
        sampling,
        1,
        drafter=drafter,
    )
    assert distance(law, model_law(target, sampling, 1)) == pytest.approx(delta, abs=1e-9)


@pytest.mark.parametrize("name", DRAFTERS)
def test_the_audit_expects_what_was_lost(name: str) -> None:
    target, drafter, sampling = ToyModel.random(4, 41, order=1), DRAFTERS[name], Sampling()
    draft, expected = target.near(42), 0.0

    def play(chance: Any) -> int:
        nonlocal expected
        engine, audit = Engine(target), Audit()
        text = Text([0], 1, sampling, chance, Limits(4, 64))
        engine.begin(text, Recipe(ThresholdGate(HashScorer(4), 0.3, max_draft=1), ExactRule(), drafter(draft)), [audit])
        engine.run([text])
        engine.close_audit([text])
        expected += chance.probability * audit.tv_losses[0]
        return text.out[0].id

    law = exact_law(play)
    p = {x: v for (x,), v in model_law(target, sampling, 1).items()}  # type: ignore[misc]
    assert expected == pytest.approx(distance(law, p), abs=1e-9)


class Numbered(Chance):
    """Notes the place of everything it is asked."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.places: list[tuple[int, int, int]] = []

    def uniform(self, round_: int, node: int, purpose: int) -> float:
        self.places.append((round_, node, purpose))
        return super().uniform(round_, node, purpose)


@pytest.mark.parametrize("name", DRAFTERS)
def test_no_chance_is_used_twice_and_no_sibling_is_vouched_for(name: str) -> None:
    class Watching(ExactRule):
        def judge(self, text, reading):  # type: ignore[no-untyped-def]
            tree = text.tree
            for node in range(len(tree)):
                if tree.vouched[node]:
                    assert tree.children(tree.parent(node)) == [node]
                    assert tree.path(node) == list(range(node + 1))
            return super().judge(text, reading)

    target = ToyModel.random(6, 51, order=2)
    for seed in range(6):
        chance = Numbered(seed)
        text = Text([1, 2], 40, Sampling(), chance, Limits(6, 64, frozenset({5})))
        gate = ThresholdGate(Confidence(), 0.35, max_draft=6)
        engine = Engine(target)
        engine.run([engine.begin(text, Recipe(gate, Watching(), DRAFTERS[name](target.near(52))))])
        assert len(set(chance.places)) == len(chance.places)


@pytest.mark.parametrize(("name", "rule"), itertools.product(DRAFTERS, RULES))
def test_a_gate_that_vouches_for_nobody_leaves_the_targets_text(name: str, rule: str) -> None:
    target = ToyModel.random(6, 61, order=2)
    for gate in (FixedGate(3), OnceGate(), ThresholdGate(Confidence(), float("inf"))):
        limits, engine = Limits(6, 40, frozenset({4})), Engine(target)
        plain, made = (Text([1, 3], 25, Sampling(0.0), Chance(0), limits) for _ in range(2))
        engine.run([engine.begin(plain, Recipe(FixedGate(0), ExactRule()))])
        engine.run([engine.begin(made, Recipe(gate, RULES[rule](), DRAFTERS[name](target.near(62))))])
        assert [e.id for e in made.out] == [e.id for e in plain.out]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"drafter": "copies"}, "has none: drafter 'either'"),
        ({"drafter": "layers"}, "drafts without it: choose gate 'confidence'"),
        ({"method": "exact", "gate": "verifier"}, "'exact' is exact, and gate 'verifier'"),
        ({"method": "target", "drafter": "model"}, "drafts nothing"),
        ({"rule": "rollback"}, "gate 'fallback'"),
        ({"gate": "weighed"}, "choose the two together"),
        ({"drafter": "hobs"}, "drafter"),
        ({"drafter": "graph", "draft_length": 3, "gate": "fixed"}, "draft_length does nothing"),
    ],
)
def test_parts_that_cannot_work_together_are_refused_in_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        DecodingConfig(**settings)
    assert "\n" not in str(raised.value)


def test_parts_replace_a_methods_own_with_their_settings() -> None:
    way = DecodingConfig(drafter="graph", gate="fixed", rule="walk", merge=1).way
    assert (way.drafter, way.gate, way.rule, way.exact) == ("graph", "once", "walk", True)
    assert DecodingConfig(rule="relaxed", drafter="graph").way.gate == "weighed"
    assert DecodingConfig(drafter="layers", gate="confidence").way.settled["scorer"] == "confidence"
    assert not DecodingConfig(drafter="hub").way.exact
