"""The engine's exact output law on toy models, by enumeration of everything chance can do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sprinter.core.chance import DRAFT, OWN
from sprinter.core.law import acceptance
from sprinter.core.protocols import Gate, Rule, Scorer
from sprinter.core.reading import Reading
from sprinter.core.rows import Needs, Part
from sprinter.core.sampling import Sampling
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Tree, Verdict
from sprinter.drafters.model import Read
from sprinter.gates.base import ChainGate
from sprinter.gates.confidence import Confidence
from sprinter.gates.fixed import FixedGate, OpenGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule
from sprinter.rules.walk import WalkRule
from tests.support.enumeration import distance, joint_law, law_at, model_law, output_law

EXACT = 1e-9
SAMPLINGS = [Sampling(), Sampling(0.7, top_p=0.9), Sampling(1.3, top_k=3), Sampling(1.0, min_p=0.2), Sampling(0.0)]


class HashScorer:
    """An absurd verifier: a fixed pseudo-random score for every draft, unrelated to acceptance."""

    needs = Needs()

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def score(self, text: Text, proposal: Proposal) -> float:
        before = text.tree.tokens[: len(text.tree.scores)]
        return self.of([*before, proposal.token])

    def of(self, drafted: Sequence[int]) -> float:
        return float(np.random.default_rng([self.seed, *drafted]).random())


class ConstantScorer:
    needs = Needs()

    def __init__(self, value: float) -> None:
        self.value = value

    def score(self, text: Text, proposal: Proposal) -> float:
        return self.value


SCORERS = [Confidence(), HashScorer(1), HashScorer(2), ConstantScorer(0.0), ConstantScorer(1.0)]


def pair(seed: int, vocab_size: int = 4) -> tuple[ToyModel, ToyModel]:
    target = ToyModel.random(vocab_size, seed, order=2)
    return target, target.near(seed + 100, noise=1.0, order=2)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_exact_decoding_has_the_targets_joint_law(sampling: Sampling, length: int) -> None:
    models = pair(length)
    law = output_law(models, lambda: FixedGate(length), ExactRule(), sampling)
    assert distance(law, model_law(models[0], sampling)) < EXACT


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("lookahead", [0.0, 0.4, 1.0])
def test_lossless_decoding_has_the_targets_joint_law_with_any_verifier(scorer: Scorer, lookahead: float) -> None:
    models = pair(5)
    law = output_law(models, lambda: ThresholdGate(scorer, math.inf, lookahead, 3), ExactRule(), Sampling())
    assert distance(law, model_law(models[0], Sampling())) < EXACT


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("lookahead", [0.2, 1.0])
@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=str)
def test_an_infinite_threshold_is_exact_under_the_vouched_rule_too(
    scorer: Scorer, lookahead: float, sampling: Sampling
) -> None:
    models = pair(6)
    law = output_law(models, lambda: ThresholdGate(scorer, math.inf, lookahead, 3), ExactRule(), sampling)
    assert distance(law, model_law(models[0], sampling)) < EXACT


@pytest.mark.parametrize("gate", [OpenGate, lambda: ThresholdGate(HashScorer(3), -math.inf, 1.0, None)])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_threshold_below_every_score_and_no_cap_is_the_draft_alone(
    gate: Callable[[], Gate], sampling: Sampling
) -> None:
    models = pair(7)
    law = output_law(models, gate, ExactRule(), sampling, num_tokens=3)
    assert distance(law, model_law(models[1], sampling, num_tokens=3)) < EXACT


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("lookahead", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("max_draft", [1, 2, 5])
@pytest.mark.parametrize("sampling", SAMPLINGS[:3], ids=str)
def test_the_one_step_error_is_exactly_delta(
    threshold: float, lookahead: float, max_draft: int, sampling: Sampling
) -> None:
    """TV(output law, target law) = delta(s) = E_q[v (1 - a)], for the token every round begins with."""
    target, draft = models = pair(8, vocab_size=3)
    scorer = HashScorer(4)
    law = output_law(models, lambda: ThresholdGate(scorer, threshold, lookahead, max_draft), ExactRule(), sampling, 1)
    assert distance(law, model_law(target, sampling, 1)) == pytest.approx(
        _delta(target, draft, sampling, scorer, threshold), abs=EXACT
    )


@pytest.mark.parametrize("lookahead", [0.0, 0.5])
def test_lookahead_commits_the_same_error_as_stopping_at_the_first_doubt(lookahead: float) -> None:
    models = pair(9, vocab_size=3)
    laws = [
        output_law(models, lambda h=h: ThresholdGate(HashScorer(5), 0.5, h, 4), ExactRule(), Sampling(), 1)
        for h in (lookahead, 1.0)
    ]
    assert distance(*laws) < EXACT


def test_the_paper_preset_tests_the_last_token_of_a_full_draft() -> None:
    """With a cap of one and the last token tested, even a verifier that trusts everything decodes exactly."""
    models = pair(10)
    gate = lambda: ThresholdGate(ConstantScorer(1.0), 0.5, 1.0, 1, test_last=True)  # noqa: E731
    assert distance(output_law(models, gate, ExactRule(), Sampling()), model_law(models[0], Sampling())) < EXACT


def test_rejection_sampling_and_walking_are_greedy_matching_at_temperature_zero() -> None:
    models, greedy = pair(11), Sampling(0.0)
    laws = [output_law(models, lambda: FixedGate(3), rule, greedy, 4) for rule in (WalkRule(), ExactRule())]
    assert laws[0] == laws[1] == model_law(models[0], greedy, 4)


class ResamplingFromTarget:
    """A known bug of other implementations: after a rejection it draws from p instead of the residual."""

    needs = Needs()
    exact = True

    def judge(self, text: Text, reading: Reading) -> Verdict:
        tree, chance = text.tree, text.chance
        for place, token in enumerate(tree.tokens):
            if not chance.accept(acceptance(token, reading.law(place), tree.laws[place]), text.round, place):
                return Verdict(range(place), chance.draw(reading.law(place), text.round, place, OWN), "resampled")
        return Verdict(range(len(tree)), chance.draw(reading.law(len(tree)), text.round, len(tree), OWN), "bonus")


def test_the_enumeration_catches_a_rule_that_resamples_from_the_target() -> None:
    models = pair(12)
    law = output_law(models, lambda: FixedGate(1), ResamplingFromTarget(), Sampling(), 1)
    assert distance(law, model_law(models[0], Sampling(), 1)) > 0.01


def _delta(target: ToyModel, draft: ToyModel, sampling: Sampling, scorer: HashScorer, threshold: float) -> float:
    """delta(s) at the prompt [0] by its definition, sum_x q(x) v(x) (1 - a(x))."""
    laws = [law_at(m, sampling, [0]) for m in (target, draft)]
    total = 0.0
    for token in range(draft.info.vocab_size):
        if scorer.of([token]) >= threshold and laws[1].prob(token) > 0:
            total += laws[1].prob(token) * (1 - acceptance(token, *laws))
    return total


class RandomTrees:
    """A drafter of trees whose shape is any: each node goes behind a node picked by a hash, or beside it."""

    needs = target_needs = Needs()

    def __init__(self, model: ToyModel) -> None:
        self.model = model

    def grow(self, texts: Sequence[Text]) -> None:
        for text in texts:
            tree = text.tree
            dice = np.random.default_rng([len(tree), text.round, len(text.tokens)])
            parent = int(dice.integers(-1, len(tree)))
            cache = text.note(self, lambda: Read(self.model.open())).cache
            cache.truncate(0)
            views = self.model.forward([Part(cache, text.context(parent), 1)])[0]
            law = text.sampling.law(views.logits[0], text.context(parent))
            token = text.chance.draw(law, text.round, len(tree), DRAFT)
            tree.add(Proposal(token, law, views.logits[0], views.facts.table[0]), parent)

    def learn(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """Nothing."""


class NodeGate(ChainGate):
    """So many nodes, whatever their shape; none vouched for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        return None, False

    def wants_more(self, tree: Tree) -> bool:
        return len(tree) < self.count


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=str)
def test_walking_down_random_trees_has_the_targets_joint_law(count: int, sampling: Sampling) -> None:
    models = pair(20 + count, vocab_size=2)
    law = output_law(models, lambda: NodeGate(count), WalkRule(), sampling, 3, drafter=RandomTrees)
    assert distance(law, model_law(models[0], sampling, 3)) < EXACT


def test_walking_down_random_trees_greedily_is_the_target_alone() -> None:
    models, greedy = pair(30), Sampling(0.0)
    for count in (1, 3, 6):
        law = output_law(models, lambda n=count: NodeGate(n), WalkRule(), greedy, 4, drafter=RandomTrees)
        assert law == model_law(models[0], greedy, 4)


WAYS: list[tuple[str, Callable[[], Gate], Rule, int]] = [
    ("target", lambda: FixedGate(0), ExactRule(), 0),
    ("draft", OpenGate, ExactRule(), 1),
    ("exact", lambda: FixedGate(2), ExactRule(), 0),
    ("lossless", lambda: ThresholdGate(HashScorer(6), math.inf, 0.3, 3), ExactRule(), 0),
    ("sprinter", lambda: ThresholdGate(HashScorer(7), 0.5, 1.0, 3), ExactRule(), 2),
    ("lookahead", lambda: ThresholdGate(HashScorer(8), 0.5, 0.2, 3), ExactRule(), 2),
]


@pytest.mark.parametrize(("gate", "rule", "model"), [w[1:] for w in WAYS], ids=[w[0] for w in WAYS])
@pytest.mark.parametrize("order", list(itertools.permutations((0, 0, 1, 1), 4))[::3], ids=str)
def test_two_texts_side_by_side_are_independent_in_every_order_of_ticks(
    gate: Callable[[], Gate], rule: Rule, model: int, order: tuple[int, ...]
) -> None:
    models, sampling = pair(13, vocab_size=2), Sampling()
    texts = [((0,), 2), ((1, 0), 1)]
    _assert_independent(models, gate, rule, model, sampling, texts, order)


@pytest.mark.parametrize(("gate", "rule", "model"), [w[1:] for w in WAYS], ids=[w[0] for w in WAYS])
@pytest.mark.parametrize("order", list(itertools.permutations((0, 1, 2))), ids=str)
def test_three_texts_side_by_side_are_independent_in_every_order_of_ticks(
    gate: Callable[[], Gate], rule: Rule, model: int, order: tuple[int, ...]
) -> None:
    models, sampling = pair(14, vocab_size=2), Sampling()
    texts = [((0,), 1), ((1,), 1), ((1, 1), 1)]
    _assert_independent(models, gate, rule, model, sampling, texts, order)


def _assert_independent(
    models: tuple[ToyModel, ToyModel],
    gate: Callable[[], Gate],
    rule: Rule,
    model: int,
    sampling: Sampling,
    texts: list[tuple[tuple[int, ...], int]],
    order: Sequence[int],
) -> None:
    """The joint law is the product of the laws of each text alone, which are a model's where the way is lossless."""
    joint = joint_law(models, gate, rule, sampling, texts, order)
    alone = [output_law(models, gate, rule, sampling, count, prompt) for prompt, count in texts]
    product = {
        tuple(k for k, _ in parts): float(np.prod([p for _, p in parts]))
        for parts in itertools.product(*(law.items() for law in alone))
    }
    assert distance(joint, product) < EXACT
    if model < 2:
        for (prompt, count), law in zip(texts, alone, strict=True):
            assert distance(law, model_law(models[model], sampling, count, prompt)) < EXACT
