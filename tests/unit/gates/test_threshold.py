"""A lookahead goes by the chance that unvouched tokens pass, whatever the score that vouches predicts."""

from __future__ import annotations

import numpy as np

from sprinter.core.chance import Chance
from sprinter.core.law import Law
from sprinter.core.rows import Needs
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.core.tree import Proposal, Tree
from sprinter.gates.threshold import ThresholdGate


class Says:
    """A scorer that says one number per place of the draft, and counts how often it is asked."""

    needs = Needs()

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers
        self.asked = 0

    def score(self, text: Text, proposal: Proposal) -> float:
        self.asked += 1
        return self.numbers[len(text.tree.scores)]


def drafted(gate: ThresholdGate) -> Tree:
    text = Text([0], 50, Sampling(), Chance(0), Limits(2, 100))
    more = gate.judge(text)
    while more:
        text.add(Proposal(1, Law(np.ones(1), np.array([1]))))
        more = gate.judge(text)
    return text.tree


def test_survival_is_the_survivor_s_word_and_only_doubtful_tokens_are_asked_about() -> None:
    typical, accept = Says(0.9, 0.99, 0.9, 0.9, 0.9), Says(0.7, 0.1, 0.7, 0.9, 0.9)
    tree = drafted(ThresholdGate(typical, 0.95, 0.5, 5, survivor=accept))
    # 0.7, then a vouched token, then 0.7 * 0.7 < 0.5: the third ends it.
    assert list(tree.vouched) == [False, True, False]
    assert tree.scores == [0.9, 0.99, 0.9]
    assert accept.asked == 2


def test_without_a_survivor_the_scores_themselves_count() -> None:
    assert len(drafted(ThresholdGate(Says(0.9, 0.99, 0.9, 0.9, 0.9), 0.95, 0.5, 5))) == 5
    assert len(drafted(ThresholdGate(Says(0.9, 0.5), 0.95, 1.0, 2))) == 1
