"""The real engine on toy models: the closed forms hold where tokens are independent, and the audit sees their loss."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from sprinter.core.records import Draft, Law, Verdict
from sprinter.core.sampling import Dice, Sampling, acceptance
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine, Limits
from sprinter.gates.fixed import FixedGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.base import Capabilities
from sprinter.models.toy import ToyModel
from sprinter.observers.audit import Audit
from sprinter.rules.exact import ExactRule
from sprinter.rules.vouched import VouchedRule
from sprinter.theory.closed_forms import exact_round, lookahead_round, lossless_round, sprinter_round
from sprinter.theory.one_step import acceptance_probs
from sprinter.theory.simulator import summarise
from sprinter.theory.token_law import TokenLaw

VOCAB = 6
RNG = np.random.default_rng(42)
TARGET_LOGITS = RNG.normal(0.0, 1.2, VOCAB)
DRAFT_LOGITS = TARGET_LOGITS + RNG.normal(0.0, 0.8, VOCAB)
SCORES = np.array([1.0, 0.5, 0.25, 0.8, 0.5, 0.9])  # by token, the same at every place


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


LAW = TokenLaw(softmax(DRAFT_LOGITS), acceptance_probs(softmax(TARGET_LOGITS), softmax(DRAFT_LOGITS)), SCORES)


class ByToken:
    """Scores a token by a table."""

    needs = Capabilities()

    def score(self, draft: Draft) -> float:
        return float(SCORES[draft.tokens[-1]])


class Watched:
    """A rule that notes [drafted, tokens, tested, loss] of every round it judges."""

    def __init__(self, rule) -> None:
        self.rule = rule
        self.rounds: list[tuple[float, ...]] = []

    def judge(self, draft: Draft, target_laws: Sequence[Law], dice: Dice) -> Verdict:
        verdict = self.rule.judge(draft, target_laws, dice)
        loss = sum(
            1 - acceptance(draft.tokens[i], target_laws[i], draft.proposals[i].law)
            for i in range(verdict.num_kept)
            if draft.vouched[i]
        )
        tested = len(draft) - sum(draft.vouched)
        self.rounds.append((len(draft), verdict.num_kept + (verdict.next_token is not None), tested, loss))
        return verdict


def run_engine(gate, rule, num_runs=60, rounds_per_run=15):
    """[num_rounds, 4] and the audited losses; short runs, as the toy's work grows with the length of its context."""
    dice = Dice(np.random.default_rng(9))
    rounds: list[tuple[float, ...]] = []
    losses: list[float] = []
    for _ in range(num_runs):
        target = ToyModel(lambda context: TARGET_LOGITS, VOCAB, "target")
        draft = ToyModel(lambda context: DRAFT_LOGITS, VOCAB, "draft")
        watched, audit = Watched(rule), Audit()
        drafter = ModelDrafter(draft, Sampling(), VOCAB)
        engine = Engine(target, drafter, gate, watched, Sampling(), Limits(VOCAB, 4096))
        for _ in engine.start([0], 1000, dice, audit):
            # A number of rounds fixed beforehand: stopping at a number of tokens would favour long last rounds.
            if len(watched.rounds) >= rounds_per_run:
                break
        # A round may emit nothing after its judgement, so one more can have been judged by then.
        kept = watched.rounds[:rounds_per_run]
        rounds += kept
        losses += audit.tv_losses[: sum(int(tokens) for _, tokens, _, _ in kept)]
    return np.array(rounds), losses


def kept_when_vouched(threshold):
    vouched = threshold <= SCORES
    return float(np.average(LAW.accept[vouched], weights=LAW.weights[vouched]))


CASES = {
    "sprinter": (ThresholdGate(ByToken(), 0.7, 1.0, 8), VouchedRule(), sprinter_round(LAW.split(0.7), 8)),
    "paper": (
        ThresholdGate(ByToken(), 0.3, 1.0, 4, test_last=True),
        VouchedRule(),
        sprinter_round(LAW.split(0.3), 4, kept_when_vouched(0.3)),
    ),
    "lookahead": (ThresholdGate(ByToken(), 0.7, 0.25, 8), VouchedRule(), lookahead_round(LAW, 0.7, 0.25, 8, bins=2)),
    "lossless": (ThresholdGate(ByToken(), math.inf, 0.2, 8), ExactRule(), lossless_round(LAW, 0.2, 8, bins=4000)),
    "exact": (FixedGate(4), ExactRule(), exact_round(LAW.alpha, 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_engine_agrees_with_the_closed_forms_where_tokens_are_independent(case):
    gate, rule, expected = CASES[case]
    rounds, losses = run_engine(gate, rule)
    found = summarise(rounds)
    assert abs(found.drafted.deviation(expected.drafted)) < 4
    assert abs(found.tokens.deviation(expected.tokens)) < 4
    assert abs(found.tested.deviation(expected.tested)) < 4
    assert abs(found.calls_per_token.deviation(expected.calls_per_token)) < 4
    assert abs(found.loss_per_token.deviation(expected.loss_per_token)) < 4
    assert found.calls_per_token.standard_error < 0.03 * found.calls_per_token.value
    # The audit saw every token of these rounds, one loss each.
    assert len(losses) == rounds[:, 1].sum()
    assert sum(losses) == pytest.approx(rounds[:, 3].sum())
