"""What the approximation cost, told by the target's own later passes: free, unbiased, bounded at every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sprinter.bounds import RunningBound
from sprinter.core.law import Law
from sprinter.core.protocols import Recipe
from sprinter.core.reading import Reading
from sprinter.core.records import NO_BUDGET, AuditReport, Budget
from sprinter.core.rows import FloatArray
from sprinter.core.text import Text
from sprinter.core.tree import Verdict
from sprinter.errors import ConfigError
from sprinter.native import rows

TYPICAL_EPSILON = 0.09
TYPICAL_DELTA = 0.3
_LOG_EPSILON, _LOG_DELTA = float(np.log(TYPICAL_EPSILON)), float(np.log(TYPICAL_DELTA))


class Audit:
    """Collects the loss of every token a target call passes over.

    A vouched token x costs d = 1 - min(1, p(x)/q(x)), any other 0: E[d] = delta(s) = TV(output law, target
    law) at that prefix. A token is atypical if p(x) <= min(0.09, 0.3 exp(-H(p))) with p at temperature 1
    (Medusa's typical acceptance, arXiv:2401.10774).
    """

    keeps_drafts = False

    def __init__(
        self, confidence: float = 0.95, exact: bool = False, lossy_tests: bool = False, budget: Budget = NO_BUDGET
    ) -> None:
        """`exact`: the output law is the target's own and needs no estimate; `lossy_tests`: see `Rule`.

        `budget`: what the text is held to, by `text.hold_to(audit.may_vouch)`.
        """
        self.exact = exact
        self.lossy_tests = lossy_tests
        self.confidence = confidence
        self.budget = budget
        self.tv_losses: list[float] = []
        self.atypical: list[bool] = []
        self.own_atypical: list[float] = []  # the target's own chance of an atypical token at each position
        self.vouched: list[bool] = []
        self._spent = [0.0, 0.0]  # total variation, vouched atypical tokens

    def saw(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """Account for one target call. See `Observer.saw`."""
        tree = text.tree
        for node in verdict.path:
            token, law = tree.tokens[node], reading.before(node)
            kept_blindly, drafted = tree.vouched[node], tree.probs[node]
            loss = 1 - min(1.0, law.prob(token) / drafted) if kept_blindly and drafted > 0 else 0.0
            self._note(token, loss, law, reading, tree.parent(node) + 1)
            self.vouched[-1] = bool(kept_blindly)
            self._spent[0] += loss
            self._spent[1] += kept_blindly and self.atypical[-1]
        if verdict.token is not None:
            row = verdict.path[-1] + 1 if len(verdict.path) else 0
            self._note(verdict.token, 0.0, reading.law(row), reading, row)

    @classmethod
    def of(cls, recipe: Recipe, budget: Budget = NO_BUDGET) -> Audit:
        """The audit of a text written by `recipe` within `budget`; ConfigError where nobody could know it was kept."""
        if budget != NO_BUDGET and recipe.rule.lossy_tests:
            raise ConfigError(
                "a budget for the whole text needs every loss to be known, and this method's tests let tokens pass "
                "more easily than exact ones: choose another method, or leave the budget out"
            )
        return cls(exact=recipe.exact, lossy_tests=recipe.rule.lossy_tests, budget=budget)

    def may_vouch(self) -> float:
        """How many tokens may be vouched for before the next target call."""
        return self.budget.left(*self._spent)

    def _note(self, token: int, tv_loss: float, law: Law, reading: Reading, row: int) -> None:
        """One emitted token, the next of the text, by the target's `row`."""
        logits, facts = reading.logits(row), reading.facts(row)
        floor = typical_floor(logits) if facts is None else _floor(float(facts[1]), float(facts[2]))
        place = token if reading.ids is None else int(reading.ids.searchsorted(token))
        self.vouched.append(False)
        self.tv_losses.append(tv_loss)
        self.atypical.append(bool(logits[place] <= floor))
        self.own_atypical.append(mass_below(law, logits, floor))

    def report(self, num_tokens: int) -> AuditReport:
        """The account of the first `num_tokens` tokens: a stop string may end a text before its last audited token."""
        tv_losses, atypical = self.tv_losses[:num_tokens], self.atypical[:num_tokens]
        audited = len(tv_losses)
        return AuditReport(
            tokens_audited=audited,
            tokens_unaudited=num_tokens - audited,
            mean_tv=None if self.lossy_tests else _mean(tv_losses),
            mean_atypical=_mean(atypical),
            own_atypical=_mean(self.own_atypical[:num_tokens]),
            tv_upper=0.0 if self.exact and audited else None if self.lossy_tests else self._upper(tv_losses),
            atypical_upper=self._upper(atypical),
            confidence=self.confidence,
            total_tv=None if self.lossy_tests else float(sum(tv_losses)),
            vouched_atypical=sum(a and v for a, v in zip(atypical, self.vouched[:num_tokens], strict=True)),
            budget=self.budget,
        )

    def _upper(self, losses: Sequence[float]) -> float | None:
        if not losses:
            return None
        bound = RunningBound(1 - self.confidence)
        bound.update(list(losses))
        return bound.upper


def typical_floor(logits: FloatArray) -> float:
    """The logit at or below which a token is atypical: log min(0.09, 0.3 exp(-H)) + logsumexp. `logits` [vocab]."""
    floor = rows.typical_floor(logits, _LOG_EPSILON, _LOG_DELTA)
    return _typical_floor(logits) if floor is None else floor


def _typical_floor(logits: FloatArray) -> float:
    """`typical_floor` in numpy."""
    peak = logits.max()
    shifted = logits - peak
    # A banned token's -inf would make 0 * -inf below; e^-100 is as good as nothing. Looking first costs a sixth.
    if shifted.min() < -100:
        np.maximum(shifted, -100, out=shifted)
    weights = np.exp(shifted)
    total = float(weights.sum())
    log_total = float(np.log(total))
    entropy = log_total - float(weights @ shifted) / total
    return _floor(float(peak) + log_total, entropy)


def _floor(log_total: float, entropy: float) -> float:
    return log_total + min(_LOG_EPSILON, _LOG_DELTA - entropy)


def mass_below(law: Law, logits: FloatArray, floor: float) -> float:
    """Mass `law` gives to tokens whose logit is at most `floor`."""
    if law.ids is not None and len(law.ids) == 1:
        return float(law.probs[0]) if logits[law.ids[0]] <= floor else 0.0
    if law.ids is None and (mass := rows.mass_below(law.probs, logits, floor)) is not None:
        return mass
    own = logits[: len(law.probs)] if law.ids is None else logits[law.ids]
    return float(law.probs @ (own <= floor).astype(law.probs.dtype))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
