"""Vouch while the risk taken so far stays within a budget, whatever the threshold would have to be for it."""

from __future__ import annotations

import math

from sprinter.core.protocols import Scorer
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Tree
from sprinter.errors import ConfigError
from sprinter.gates.base import ChainGate, check_cap


class RiskBudget:
    """Credit that every drafted token adds to and every vouched token spends from.

    After n tokens the vouched ones' predicted risk sum(1 - f) is at most n * per_100 / 100; unused credit is kept up
    to what 100 tokens bring. With calibrated scores E[sum(1 - f)] is the sum of delta(s) (docs/verifier.md), so
    the mean delta stays within per_100 / 100.
    """

    def __init__(self, per_100: float) -> None:
        if not 0 <= per_100 <= 100 or math.isnan(per_100):
            raise ConfigError(f"budget is {per_100}, but must be between 0 (test all) and 100 (vouch for all) per 100")
        self.per_100 = per_100
        self.credit = 0.0

    def admits(self, score: float) -> bool:
        """Account for a token of this score: True if its risk is within the credit and has been taken."""
        self.credit = min(self.per_100, self.credit + self.per_100 / 100)
        risk = 1 - score
        # Rounding must not refuse a risk that the credit has been saved up for.
        if risk > self.credit + 1e-9:
            return False
        self.credit -= risk
        return True

    def rewind(self, length: int) -> None:
        """See `Note.rewind`: a risk that was taken stays taken."""


class BudgetGate(ChainGate):
    """v = 1 while the accumulated predicted risk stays within `per_100` per 100 tokens; stops at the first doubt."""

    def __init__(self, scorer: Scorer, per_100: float, max_draft: int | None = 20) -> None:
        check_cap(max_draft)
        RiskBudget(per_100)  # raises for a number out of range
        self.scorer = scorer
        self.needs = scorer.needs
        self.max_draft = max_draft
        self.per_100 = per_100

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        """See `ChainGate.vouch`."""
        score = self.scorer.score(text, proposal)
        return score, text.note(self, lambda: RiskBudget(self.per_100)).admits(score)

    def wants_more(self, tree: Tree) -> bool:
        """See `ChainGate.wants_more`."""
        if self.max_draft is not None and len(tree.scores) >= self.max_draft:
            return False
        return not tree.doubted
