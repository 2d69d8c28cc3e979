"""What the approximation cost, told by the target's own later passes: free, unbiased, bounded at every time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sprinter.bounds import RunningBound
from sprinter.core.law import Law, residual
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
DEFICIT_CLIP = 8.0  # nats; a token 3,000 times less likely than the law's mean says no more than that
REPEAT = 4  # tokens of a stretch that counts as repeated
_LOG_EPSILON, _LOG_DELTA = float(np.log(TYPICAL_EPSILON)), float(np.log(TYPICAL_DELTA))


class Audit:
    """Collects the loss of every token a target call passes over.

    A vouched token x costs d = 1 - min(1, p(x)/q(x)), any other 0: E[d] = delta(s) = TV(output law, target
    law) at that prefix. A token is atypical if p(x) <= min(0.09, 0.3 exp(-H(p))) with p at temperature 1
    (Medusa's typical acceptance, arXiv:2401.10774). Its excess over the target's own rate is, at a prefix,
    e = d (1[x atypical] - r(atypical)) with the residual r = norm((p - q)+): docs/theory.md, section 11. A token's
    deficit is E_p'[log p] - log p(x), what it falls behind a token of the target's own law p' in log-likelihood.
    """

    def __init__(
        self,
        confidence: float = 0.95,
        exact: bool = False,
        lossy_tests: bool = False,
        budget: Budget = NO_BUDGET,
        keeps_drafts: bool = False,
    ) -> None:
        """`exact`: the output law is the target's own and needs no estimate; `lossy_tests`: see `Rule`.

        `budget`: what the text is held to, by `text.hold_to(audit.may_vouch)`. `keeps_drafts`: keep every pending
        token's law, without which the excess of tokens that were sampled is not known.
        """
        self.keeps_drafts = keeps_drafts
        self.exact = exact
        self.lossy_tests = lossy_tests
        self.confidence = confidence
        self.budget = budget
        self.tv_losses: list[float] = []
        self.atypical: list[bool] = []
        self.own_atypical: list[float] = []  # the target's own chance of an atypical token at each position
        self.vouched: list[bool] = []
        self.excess: list[float] = []  # nan where it is not known
        self.deficits: list[float] = []  # nats, within +- DEFICIT_CLIP
        self.tokens: list[int] = []
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
            if loss > 0:
                self.excess[-1] = loss * self._beyond(text, node, law, reading)
            self._spent[0] += loss
            self._spent[1] += kept_blindly and self.atypical[-1]
        if verdict.token is not None:
            row = verdict.path[-1] + 1 if len(verdict.path) else 0
            self._note(verdict.token, 0.0, reading.law(row), reading, row)

    @classmethod
    def of(cls, recipe: Recipe, budget: Budget = NO_BUDGET, keeps_drafts: bool = False) -> Audit:
        """The audit of a text written by `recipe` within `budget`; ConfigError where nobody could know it was kept."""
        if budget != NO_BUDGET and recipe.rule.lossy_tests:
            raise ConfigError(
                "a budget for the whole text needs every loss to be known, and this method's tests let tokens pass "
                "more easily than exact ones: choose another method, or leave the budget out"
            )
        return cls(exact=recipe.exact, lossy_tests=recipe.rule.lossy_tests, budget=budget, keeps_drafts=keeps_drafts)

    def may_vouch(self) -> float:
        """How many tokens may be vouched for before the next target call."""
        return self.budget.left(*self._spent)

    def _note(self, token: int, tv_loss: float, law: Law, reading: Reading, row: int) -> None:
        """One emitted token, the next of the text, by the target's `row`."""
        logits, floor = reading.logits(row), _floor_of(reading, row)
        place = token if reading.ids is None else int(reading.ids.searchsorted(token))
        self.vouched.append(False)
        self.tv_losses.append(tv_loss)
        self.atypical.append(bool(logits[place] <= floor))
        self.own_atypical.append(mass_below(law, logits, floor))
        self.excess.append(0.0)
        self.deficits.append(float(np.clip(_mean_logit(law, logits) - logits[place], -DEFICIT_CLIP, DEFICIT_CLIP)))
        self.tokens.append(token)

    def _beyond(self, text: Text, node: int, law: Law, reading: Reading) -> float:
        """1[x atypical] - r(atypical) for the node's token x, which the target's `law` likes less than the draft's."""
        tree, row = text.tree, text.tree.parent(node) + 1
        logits, floor, atypical = reading.logits(row), _floor_of(reading, row), float(self.atypical[-1])
        if tree.probs[node] == 1.0:
            # The draft was sure, so the residual is what the target's law has elsewhere.
            own = law.prob(tree.tokens[node])
            return atypical - (mass_below(law, logits, floor) - own * atypical) / (1 - own)
        if tree.proposals is None:
            return math.nan
        return atypical - mass_below(residual(law, tree.proposals[node].law), logits, floor)

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
            mean_excess=None if self.lossy_tests else _known_mean(self.excess[:num_tokens]),
            mean_deficit=_mean(self.deficits[:num_tokens]),
            repeated=repeated_share(self.tokens[:num_tokens]),
        )

    def _upper(self, losses: Sequence[float]) -> float | None:
        if not losses:
            return None
        bound = RunningBound(1 - self.confidence)
        bound.update(list(losses))
        return bound.upper


def repeated_share(ids: Sequence[int]) -> float:
    """Share of the stretches of REPEAT tokens that the text has had before; 0 where it is shorter than one."""
    stretches = [tuple(ids[start : start + REPEAT]) for start in range(len(ids) - REPEAT + 1)]
    return 1 - len(set(stretches)) / len(stretches) if stretches else 0.0


def _floor_of(reading: Reading, row: int) -> float:
    facts = reading.facts(row)
    return typical_floor(reading.logits(row)) if facts is None else _floor(float(facts[1]), float(facts[2]))


def _mean_logit(law: Law, logits: FloatArray) -> float:
    """The mean logit of a token drawn from `law`."""
    if law.ids is not None and len(law.ids) == 1:
        return float(logits[law.ids[0]])
    own = logits[: len(law.probs)] if law.ids is None else logits[law.ids]
    if law.ids is None and own.min() > -1e30:
        return float(law.probs @ own)
    drawn = law.probs > 0  # a banned token's -inf would make 0 * -inf
    return float(law.probs[drawn] @ own[drawn])


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


def _known_mean(values: Sequence[float]) -> float | None:
    return None if not values or any(map(math.isnan, values)) else float(np.mean(values))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
