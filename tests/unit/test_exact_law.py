"""The engine's exact output law on toy models, by enumeration of everything chance can do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sprinter.core.records import Draft, Law, Verdict
from sprinter.core.sampling import Dice, Sampling, acceptance
from sprinter.gates.base import Gate
from sprinter.gates.confidence import Confidence
from sprinter.gates.fixed import FixedGate, OpenGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.base import Capabilities
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule
from sprinter.rules.greedy import GreedyRule
from sprinter.rules.vouched import VouchedRule
from tests.support.enumeration import distance, model_law, output_law

EXACT = 1e-9
SAMPLINGS = [Sampling(), Sampling(0.7, top_p=0.9), Sampling(1.3, top_k=3), Sampling(1.0, min_p=0.2), Sampling(0.0)]


class HashScorer:
    """An absurd verifier: a fixed pseudo-random score for every draft, unrelated to acceptance."""

    needs = Capabilities()

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def score(self, draft: Draft) -> float:
        return float(np.random.default_rng([self.seed, *draft.tokens]).random())


class ConstantScorer:
    needs = Capabilities()

    def __init__(self, value: float) -> None:
        self.value = value

    def score(self, draft: Draft) -> float:
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
def test_lossless_decoding_has_the_targets_joint_law_with_any_verifier(scorer: Confidence, lookahead: float) -> None:
    models = pair(5)
    law = output_law(models, lambda: ThresholdGate(scorer, math.inf, lookahead, 3), ExactRule(), Sampling())
    assert distance(law, model_law(models[0], Sampling())) < EXACT


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("lookahead", [0.2, 1.0])
@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=str)
def test_an_infinite_threshold_is_exact_under_the_vouched_rule_too(
    scorer: Confidence, lookahead: float, sampling: Sampling
) -> None:
    models = pair(6)
    law = output_law(models, lambda: ThresholdGate(scorer, math.inf, lookahead, 3), VouchedRule(), sampling)
    assert distance(law, model_law(models[0], sampling)) < EXACT


@pytest.mark.parametrize("gate", [OpenGate, lambda: ThresholdGate(HashScorer(3), -math.inf, 1.0, None)])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_threshold_below_every_score_and_no_cap_is_the_draft_alone(
    gate: Callable[[], Gate], sampling: Sampling
) -> None:
    models = pair(7)
    law = output_law(models, gate, VouchedRule(), sampling, num_tokens=3)
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
    law = output_law(models, lambda: ThresholdGate(scorer, threshold, lookahead, max_draft), VouchedRule(), sampling, 1)
    assert distance(law, model_law(target, sampling, 1)) == pytest.approx(
        _delta(target, draft, sampling, scorer, threshold), abs=EXACT
    )


@pytest.mark.parametrize("lookahead", [0.0, 0.5])
def test_lookahead_commits_the_same_error_as_stopping_at_the_first_doubt(lookahead: float) -> None:
    models = pair(9, vocab_size=3)
    laws = [
        output_law(models, lambda h=h: ThresholdGate(HashScorer(5), 0.5, h, 4), VouchedRule(), Sampling(), 1)
        for h in (lookahead, 1.0)
    ]
    assert distance(*laws) < EXACT


def test_the_paper_preset_tests_the_last_token_of_a_full_draft() -> None:
    """With a cap of one and the last token tested, even a verifier that trusts everything decodes exactly."""
    models = pair(10)
    gate = lambda: ThresholdGate(ConstantScorer(1.0), 0.5, 1.0, 1, test_last=True)  # noqa: E731
    assert distance(output_law(models, gate, VouchedRule(), Sampling()), model_law(models[0], Sampling())) < EXACT


def test_greedy_matching_equals_rejection_sampling_at_temperature_zero() -> None:
    models, greedy = pair(11), Sampling(0.0)
    laws = [output_law(models, lambda: FixedGate(3), rule, greedy, 4) for rule in (GreedyRule(), ExactRule())]
    assert laws[0] == laws[1] == model_law(models[0], greedy, 4)


class ResamplingFromTarget:
    """A known bug of other implementations: after a rejection it draws from p instead of the residual."""

    def judge(self, draft: Draft, target_laws: Sequence[Law], dice: Dice) -> Verdict:
        for place, token in enumerate(draft.tokens):
            if not dice.accept(acceptance(token, target_laws[place], draft.proposals[place].law)):
                return Verdict(place, dice.draw(target_laws[place]), "resampled")
        return Verdict(len(draft), dice.draw(target_laws[len(draft)]), "bonus")


def test_the_enumeration_catches_a_rule_that_resamples_from_the_target() -> None:
    models = pair(12)
    law = output_law(models, lambda: FixedGate(1), ResamplingFromTarget(), Sampling(), 1)
    assert distance(law, model_law(models[0], Sampling(), 1)) > 0.01


def _delta(target: ToyModel, draft: ToyModel, sampling: Sampling, scorer: HashScorer, threshold: float) -> float:
    """delta(s) at the prompt [0] by its definition, sum_x q(x) v(x) (1 - a(x))."""
    laws = [sampling.law(m.forward([0], 1).logits[0], [0]) for m in (target, draft)]
    total = 0.0
    for token in range(draft.info.vocab_size):
        vouched = scorer.score(Draft(tokens=[token])) >= threshold
        if vouched and laws[1].prob(token) > 0:
            total += laws[1].prob(token) * (1 - acceptance(token, *laws))
    return total
