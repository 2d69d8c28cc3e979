"""Scores that need no training: what the draft's own law says about the token it drew."""

from __future__ import annotations

import numpy as np

from sprinter.core.records import Draft
from sprinter.core.sampling import log_softmax
from sprinter.models.base import Capabilities


class Confidence:
    """q(x) at temperature 1, the draft's probability of the token it drew."""

    needs = Capabilities()

    def score(self, draft: Draft) -> float:
        proposal = draft.proposals[-1]
        logits = proposal.logits
        place = proposal.token if proposal.ids is None else int(np.searchsorted(proposal.ids, proposal.token))
        peak = logits.max()
        return float(np.exp(logits[place] - peak) / np.exp(logits - peak).sum())


class Certainty:
    """exp(-H(q)) at temperature 1: the inverse of the number of tokens the draft hesitates between."""

    needs = Capabilities()

    def score(self, draft: Draft) -> float:
        logs = log_softmax(draft.proposals[-1].logits)  # [width]
        probs = np.exp(logs)
        return float(np.exp(probs @ np.where(probs > 0, logs, 0)))


class Margin:
    """The draft's most probable token's lead over its second, at temperature 1."""

    needs = Capabilities()

    def score(self, draft: Draft) -> float:
        logits = draft.proposals[-1].logits
        second, first = np.partition(logits, -2)[-2:] if len(logits) > 1 else (-np.inf, logits[0])
        total = np.exp(logits - first).sum()
        return float((1 - np.exp(second - first)) / total)
