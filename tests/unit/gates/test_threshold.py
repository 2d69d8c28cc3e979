"""A lookahead goes by the chance that unvouched tokens pass, whatever the score that vouches predicts."""

from __future__ import annotations

import numpy as np

from sprinter.core.records import Draft, Law, Proposal
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.base import Capabilities


class Says:
    """A scorer that says one number per place of the draft, and counts how often it is asked."""

    needs = Capabilities()

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers
        self.asked = 0

    def score(self, draft: Draft) -> float:
        self.asked += 1
        return self.numbers[len(draft) - 1]


def drafted(gate: ThresholdGate) -> Draft:
    draft = Draft()
    while gate.keep_drafting(draft):
        draft.append(Proposal(1, Law(np.ones(1)), np.zeros(2), None, None, None))
        draft.settle(*gate.vouch(draft))
    return draft


def test_survival_is_the_survivor_s_word_and_only_doubtful_tokens_are_asked_about() -> None:
    typical, accept = Says(0.9, 0.99, 0.9, 0.9, 0.9), Says(0.7, 0.1, 0.7, 0.9, 0.9)
    draft = drafted(ThresholdGate(typical, 0.95, 0.5, 5, survivor=accept))
    # 0.7, then a vouched token, then 0.7 * 0.7 < 0.5: the third ends it.
    assert draft.vouched == [False, True, False]
    assert draft.scores == [0.9, 0.99, 0.9]
    assert accept.asked == 2


def test_without_a_survivor_the_scores_themselves_count() -> None:
    assert len(drafted(ThresholdGate(Says(0.9, 0.99, 0.9, 0.9, 0.9), 0.95, 0.5, 5))) == 5
    assert len(drafted(ThresholdGate(Says(0.9, 0.5), 0.95, 1.0, 2))) == 1
