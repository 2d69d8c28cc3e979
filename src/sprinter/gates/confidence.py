"""Scores that need no training: what the draft's own law says about the token it drew."""

from __future__ import annotations

import math

from sprinter.core.rows import Needs
from sprinter.core.text import Text
from sprinter.core.tree import Proposal


class Confidence:
    """q(x) at temperature 1, the draft's probability of the token it drew."""

    needs = Needs(full_laws=True)

    def score(self, text: Text, proposal: Proposal) -> float:
        """See `Scorer.score`."""
        if proposal.facts is None:
            return proposal.law.prob(proposal.token)
        return math.exp(proposal.own_logit - float(proposal.facts[1]))


class Certainty:
    """exp(-H(q)) at temperature 1: the inverse of the number of tokens the draft hesitates between."""

    needs = Needs(full_laws=True)

    def score(self, text: Text, proposal: Proposal) -> float:
        """See `Scorer.score`."""
        return 1.0 if proposal.facts is None else math.exp(-float(proposal.facts[2]))


class Margin:
    """The draft's most probable token's lead over its second, at temperature 1."""

    needs = Needs(full_laws=True)

    def score(self, text: Text, proposal: Proposal) -> float:
        """See `Scorer.score`."""
        if proposal.facts is None or proposal.logits is None:
            return 1.0
        best, log_total, _, second = proposal.facts.tolist()
        return math.exp(float(proposal.logits[int(best)]) - log_total) - math.exp(second - log_total)
