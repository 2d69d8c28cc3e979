"""The real engine on toy models: the closed forms hold where tokens are independent, and the audit sees their loss."""

import math

import numpy as np
import pytest

from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.reading import Reading
from sprinter.core.records import Budget
from sprinter.core.rows import Needs
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.core.tree import Proposal, Verdict
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.gates.fixed import FixedGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.observers.audit import Audit
from sprinter.rules.exact import ExactRule
from sprinter.theory.closed_forms import exact_round, lookahead_round, lossless_round, sprinter_round
from sprinter.theory.one_step import acceptance_probs
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import Rows, Texts, simulate, summarise
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

    needs = Needs()

    def score(self, text: Text, proposal: Proposal) -> float:
        return float(SCORES[proposal.token])


class Rounds:
    """Notes [drafted, tokens, tested, loss] of every target call."""

    keeps_drafts = False

    def __init__(self) -> None:
        self.rounds: list[tuple[float, ...]] = []

    def saw(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        tree = text.tree
        loss = sum(
            1 - min(1.0, reading.before(node).prob(tree.tokens[node]) / tree.probs[node])
            for node in verdict.path
            if tree.vouched[node]
        )
        tokens = len(verdict.path) + (verdict.token is not None)
        self.rounds.append((len(tree), tokens, tree.vouched.count(0), loss))


def run_engine(gate, rule, num_runs=60, rounds_per_run=15):
    """[num_rounds, 4] and the audited losses; short runs, as the toy's work grows with the length of its context."""
    rounds: list[tuple[float, ...]] = []
    losses: list[float] = []
    target = ToyModel(lambda context: TARGET_LOGITS, VOCAB, "target")
    draft = ToyModel(lambda context: DRAFT_LOGITS, VOCAB, "draft")
    engine, recipe = Engine(target), Recipe(gate, rule, ModelDrafter(draft))
    for seed in range(num_runs):
        watched, audit = Rounds(), Audit()
        text = Text([0], 1000, Sampling(), Chance(seed), Limits(VOCAB, 4096))
        engine.begin(text, recipe, [watched, audit])
        # A number of rounds fixed beforehand: stopping at a number of tokens would favour long last rounds.
        while text.round < rounds_per_run:
            engine.tick([text])
        rounds += watched.rounds
        losses += audit.tv_losses
    return np.array(rounds), losses


def kept_when_vouched(threshold):
    vouched = threshold <= SCORES
    return float(np.average(LAW.accept[vouched], weights=LAW.weights[vouched]))


CASES = {
    "sprinter": (ThresholdGate(ByToken(), 0.7, 1.0, 8), ExactRule(), sprinter_round(LAW.split(0.7), 8)),
    "paper": (
        ThresholdGate(ByToken(), 0.3, 1.0, 4, test_last=True),
        ExactRule(),
        sprinter_round(LAW.split(0.3), 4, kept_when_vouched(0.3)),
    ),
    "lookahead": (ThresholdGate(ByToken(), 0.7, 0.25, 8), ExactRule(), lookahead_round(LAW, 0.7, 0.25, 8, bins=2)),
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


@pytest.mark.parametrize("lookahead", [1.0, 0.25])
def test_engine_agrees_with_the_simulation_where_texts_have_a_budget(lookahead):
    """Greedy, so that a vouched token costs 0 or 1 and both see the same losses: both agree at 7 places of 10."""
    rng = np.random.default_rng(3)
    places = 4_000
    best = rng.integers(VOCAB, size=places + 1)
    drafted = np.where(rng.random(places + 1) < 0.7, best, (best + 1) % VOCAB)
    sure = rng.random(places + 1)
    at = [0]  # where the present text begins

    class ByPlace:
        needs = Needs()

        def score(self, text: Text, proposal: Proposal) -> float:
            return float(sure[text.settled + len(text.tree.scores) + at[0]])

    def one_hot(ids):
        return lambda context: np.eye(VOCAB)[ids[len(context) + at[0]]] * 50.0

    target, draft = ToyModel(one_hot(best), VOCAB, "target"), ToyModel(one_hot(drafted), VOCAB, "draft")
    engine, gate = Engine(target), ThresholdGate(ByPlace(), 0.4, lookahead, 8)
    recipe, budget = Recipe(gate, ExactRule(), ModelDrafter(draft)), Budget(5.0)
    calls = tokens = 0
    for at[0] in range(0, places - 40, 40):
        audit = Audit.of(recipe, budget)
        text = Text([0], 40, Sampling(0.0), Chance(0), Limits(VOCAB, 4096))
        text.hold_to(audit.may_vouch)
        engine.run([engine.begin(text, recipe, [audit])])
        engine.close_audit([text])
        calls, tokens = calls + text.counters.target_calls, tokens + text.num_tokens
        assert sum(audit.tv_losses) <= 5.0
    rows = Rows((best == drafted)[1:].astype(float), sure[1:])
    found = summarise(simulate(rows, Setting(0.4, lookahead, 8), rng, Texts(40, 5.0)))
    free = summarise(simulate(rows, Setting(0.4, lookahead, 8), rng))
    assert calls / tokens == pytest.approx(found.calls_per_token.value, rel=0.06)  # texts end inside a round
    assert found.calls_per_token.value > 1.1 * free.calls_per_token.value
    assert found.loss_per_token.value <= 5.0 / 40 * 1.02 < free.loss_per_token.value
