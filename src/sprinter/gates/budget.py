"""Vouch while the risk taken so far stays within a budget, whatever the threshold would have to be for it."""

from __future__ import annotations

import math

from sprinter.core.records import Draft
from sprinter.errors import ConfigError
from sprinter.gates.base import Scorer


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


class BudgetGate:
    """v = 1 while the accumulated predicted risk stays within `per_100` per 100 tokens; stops at the first doubt."""

    def __init__(self, scorer: Scorer, per_100: float, max_draft: int | None = 20) -> None:
        if max_draft is not None and max_draft < 1:
            raise ConfigError(f"max_draft is {max_draft}, but must be at least 1")
        self.scorer = scorer
        self.needs = scorer.needs
        self.max_draft = max_draft
        self._budget = RiskBudget(per_100)

    def begin(self) -> None:
        """Start a new sequence with no credit: a text must not depend on the one before."""
        self._budget = RiskBudget(self._budget.per_100)

    def vouch(self, draft: Draft) -> tuple[float | None, bool]:
        score = self.scorer.score(draft)
        return score, self._budget.admits(score)

    def keep_drafting(self, draft: Draft) -> bool:
        if self.max_draft is not None and len(draft) >= self.max_draft:
            return False
        return draft.all_vouched
