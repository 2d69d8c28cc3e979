"""What the approximation cost, told by the target's own later passes: free, unbiased, bounded at every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sprinter.bounds import RunningBound
from sprinter.core.records import AuditReport, Draft, FloatArray, Law, RowFacts, Verdict
from sprinter.core.sampling import acceptance
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

    def __init__(self, confidence: float = 0.95, exact: bool = False) -> None:
        """`exact`: the rule tests every drafted token, so the output law is the target's own and needs no estimate."""
        self.exact = exact
        self.confidence = confidence
        self.tv_losses: list[float] = []
        self.atypical: list[bool] = []
        self.own_atypical: list[float] = []  # the target's own chance of an atypical token at each position

    def observe(
        self,
        draft: Draft,
        verdict: Verdict,
        laws: Sequence[Law],
        logits: FloatArray,
        facts: RowFacts | None = None,
    ) -> None:
        """Account for one target call. `logits` [num_drafted + 1, vocab] are the target's, before any transform.

        `facts` about them spare the audit its own look.
        """
        tokens = draft.tokens[: verdict.num_kept]
        for place, token in enumerate(tokens):
            kept_blindly = draft.vouched[place]
            loss = 1 - acceptance(token, laws[place], draft.proposals[place].law) if kept_blindly else 0.0
            self.tv_losses.append(loss)
        if verdict.next_token is not None:
            tokens = [*tokens, verdict.next_token]
            self.tv_losses.append(0.0)
        for place, token in enumerate(tokens):
            row = logits[place]
            floor = typical_floor(row) if facts is None else _floor(facts.log_total(place), facts.entropy(place))
            self.atypical.append(bool(row[token] <= floor))
            self.own_atypical.append(mass_below(laws[place], row, floor))

    def report(self, num_tokens: int) -> AuditReport:
        """The account of a generation of `num_tokens` tokens."""
        audited = len(self.tv_losses)
        return AuditReport(
            tokens_audited=audited,
            tokens_unaudited=max(0, num_tokens - audited),
            mean_tv=_mean(self.tv_losses),
            mean_atypical=_mean(self.atypical),
            own_atypical=_mean(self.own_atypical),
            tv_upper=0.0 if self.exact and audited else self._upper(self.tv_losses),
            atypical_upper=self._upper(self.atypical),
            confidence=self.confidence,
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
