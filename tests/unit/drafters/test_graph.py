"""Graphs as drafts: never a cycle, the target's text whatever is merged, and what relaxed acceptance really costs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sprinter.config import DecodingConfig
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.reading import Reading
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.core.tree import Verdict
from sprinter.drafters.graph import Graph, GraphDrafter, GraphSettings
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.gates.fixed import FixedGate, OnceGate, WeighedGate
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule
from sprinter.rules.relaxed import RelaxedRule
from sprinter.rules.walk import WalkRule
from sprinter.theory.relaxed import relaxed_distance, relaxed_law
from tests.support.enumeration import distance, model_law, output_law

WIDE = GraphSettings(graph_ratio=0.0, graph_floor=0.0)


def settings_of(merge: int, **more: float) -> GraphSettings:
    return GraphSettings(merge=merge, **{"graph_ratio": 0.0, "graph_floor": 0.0, **more})  # type: ignore[arg-type]


def drafted(draft: ToyModel, told: GraphSettings, room: int = 30) -> tuple[Text, Graph]:
    """A text with one drafted graph, and the graph."""
    text = Text([1], room, Sampling(0.0), Chance(0), Limits(draft.info.vocab_size, 64))
    drafter = GraphDrafter(draft, told)
    drafter.grow([text])
    graph: Graph = text.notes[drafter]
    return text, graph


@pytest.mark.parametrize("merge", [-1, 0, 1])
@pytest.mark.parametrize("vocab", [2, 3, 6])
def test_no_way_leads_from_a_node_back_to_itself(vocab: int, merge: int) -> None:
    merges = 0
    for seed in range(20):
        text, graph = drafted(ToyModel.random(vocab, seed, order=2), settings_of(merge, graph_nodes=60))
        for node, followers in graph.followers.items():
            assert not any(graph.leads(follower, node) for follower in followers)
            assert len({graph.tree.tokens[f] for f in followers}) == len(followers)
        merges += graph.merges
        assert len(text.tree) <= 60
        # Every path of the unrolled tree is a way through the graph.
        ways = {-1: -1}
        for node in range(len(text.tree)):
            above = ways[text.tree.parent(node)]
            (ways[node],) = (f for f in graph.followers[above] if graph.tree.tokens[f] == text.tree.tokens[node])
    assert (merges > 0) == (merge >= 0)


def test_two_branches_that_propose_each_others_token_do_not_chase_each_other() -> None:
    # Behind 0 comes 1, behind 1 comes 0, and both behind the root: the official class links them in a circle.
    after = {0: [0.1, 0.8, 0.1], 1: [0.8, 0.1, 0.1], 2: [0.45, 0.45, 0.1]}
    text, graph = drafted(
        ToyModel(lambda context: np.log(after[context[-1] if len(context) > 1 else 2]), 3),
        settings_of(0, graph_ratio=0.5, graph_depth=4),
    )
    assert graph.followers[-1] == [0, 1]
    assert graph.followers[0] == [1]
    assert graph.followers[1] == [2]  # not back to node 0, which leads here
    assert [text.tree.tokens[node] for node in range(3)] == [0, 1, 1]


def test_a_merge_goes_on_as_the_node_it_was_merged_into() -> None:
    text, graph = drafted(ToyModel.random(4, 3, order=1), settings_of(0, graph_width=2))
    copies = [node for node in range(len(text.tree)) if node in graph.merged]
    assert copies
    first = copies[0]
    assert text.tree.parent(first) not in graph.merged
    assert {text.tree.tokens[child] for child in text.tree.children(first)} <= {*range(4)}


def test_where_pairs_are_asked_for_the_word_before_is_the_same_too() -> None:
    merges, alike = 0, {0: 0, 1: 0}
    for merge, seed in itertools.product(alike, range(10)):
        text, graph = drafted(ToyModel.random(5, seed, order=2), settings_of(merge))
        words = [*graph.tree.tokens, text.tokens[-1]]  # -1: the root
        for node, followers in graph.followers.items():
            elsewhere = [graph.tree.parent(f) for f in followers if graph.tree.parent(f) != node]
            merges += len(elsewhere)
            alike[merge] += sum(words[other] != words[node] for other in elsewhere)
    assert merges > 50
    assert alike[0] > 0 == alike[1]


@pytest.mark.parametrize("merge", [-1, 0, 1])
@pytest.mark.parametrize("eos", [-1, 2])
@pytest.mark.parametrize("room", [1, 2, 30])
def test_greedy_graphs_write_what_the_target_writes(merge: int, eos: int, room: int) -> None:
    for seed, nodes in itertools.product(range(4), (1, 5, 24)):
        target = ToyModel.random(6, seed, order=2)
        limits, engine = Limits(6, 32, frozenset({eos})), Engine(target)
        plain, made = (Text([1, seed], room, Sampling(0.0), Chance(0), limits) for _ in range(2))
        drafter = GraphDrafter(target.near(seed + 50), settings_of(merge, graph_nodes=nodes))
        engine.run([engine.begin(plain, Recipe(FixedGate(0), ExactRule()))])
        engine.run([engine.begin(made, Recipe(OnceGate(), WalkRule(), drafter))])
        assert [e.id for e in made.out] == [e.id for e in plain.out]
        assert made.finish_reason == plain.finish_reason


@pytest.mark.parametrize("merge", [-1, 0, 1])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.7, top_p=0.8), Sampling(1.0, repetition_penalty=1.3)], ids=str
)
def test_walking_down_graphs_has_the_targets_joint_law(merge: int, sampling: Sampling) -> None:
    target = ToyModel.random(3, 11, order=2)
    told = settings_of(merge, graph_width=2, graph_depth=3)
    law = output_law(
        (target, target.near(12)), OnceGate, WalkRule(), sampling, 3, drafter=lambda d: GraphDrafter(d, told)
    )
    assert distance(law, model_law(target, sampling, 3)) < 1e-9


def test_accepted_tokens_come_through_merges() -> None:
    class Through:
        keeps_drafts, count = False, 0

        def saw(self, text: Text, verdict: Verdict, reading: Reading) -> None:
            self.count += sum(node in text.notes[drafter].merged for node in verdict.path)

    target = ToyModel.random(4, 5, order=1)
    drafter, seen = GraphDrafter(target, settings_of(0, graph_width=2)), Through()
    text = Text([1], 60, Sampling(1.0), Chance(1), Limits(4, 80))
    engine = Engine(target)
    engine.run([engine.begin(text, Recipe(OnceGate(), WalkRule(), drafter), [seen])])
    assert seen.count > 5


def test_testing_siblings_one_by_one_changes_the_law_as_the_formula_says() -> None:
    p, q = np.array([0.45, 0.35, 0.2]), np.array([0.6, 0.3, 0.1])
    greedy = np.array([1.0, 0.0, 0.0])
    assert relaxed_law(p, [(0, 0.6)], greedy) == pytest.approx([1, 0, 0])
    assert relaxed_law(p, [(0, 0.6), (1, 0.3)], greedy) == pytest.approx([0.75, 0.25, 0])
    assert relaxed_distance(p, [(0, 0.6), (1, 0.3)], greedy) == pytest.approx(0.25)
    target, draft = (ToyModel(lambda context, law=law: np.log(law), 3) for law in (p, q))
    for width, sampling in itertools.product((1, 2, 3), (Sampling(), Sampling(0.0))):
        told = settings_of(-1, graph_width=width, graph_depth=1)
        law = output_law(
            (target, draft), WeighedGate, RelaxedRule(), sampling, 1, drafter=lambda d, told=told: GraphDrafter(d, told)
        )
        own = greedy if sampling.greedy else p
        drafts = [(token, float(q[token])) for token in range(width)]
        for token, wanted in enumerate(relaxed_law(p, drafts, own)):
            assert law.get((token,), 0.0) == pytest.approx(wanted, abs=1e-9)
        assert (distance(law, model_law(target, sampling, 1)) > 0.01) == (width > 1 or not sampling.greedy)


def test_two_levels_of_relaxed_tests_are_further_from_the_target() -> None:
    target = ToyModel.random(3, 4, order=1)
    told = settings_of(-1, graph_width=2, graph_depth=2)
    law = output_law(
        (target, target.near(5)), WeighedGate, RelaxedRule(), Sampling(), 2, drafter=lambda d: GraphDrafter(d, told)
    )
    assert distance(law, model_law(target, Sampling(), 2)) > 0.05


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"merge": 2}, "merge is 2"),
        ({"graph_nodes": 0}, "from 1 to 256"),
        ({"graph_ratio": 1.5}, "from 0 to 1"),
        ({"graph_floor": float("nan")}, "from 0 to 1"),
    ],
)
def test_a_graph_out_of_range_is_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DecodingConfig(method="gsd", **change)  # type: ignore[arg-type]
