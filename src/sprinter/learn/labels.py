"""What the target says of a drafted token: the labels a verifier learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from sprinter.core.law import acceptance
from sprinter.core.reading import Reading
from sprinter.core.rows import FloatArray, IntArray
from sprinter.core.sampling import Sampling
from sprinter.core.tree import Proposal
from sprinter.observers.audit import mass_below, typical_floor

LABELS: Final = ("accept", "accept_hard", "overlap", "typical", "own_atypical")


@dataclass(frozen=True, slots=True)
class TargetView:
    """The target at one context, with what every label of it shares."""

    logits: FloatArray  # [width], before any transform
    ids: IntArray | None  # tokens the logits stand for, [width]; None for 0 .. width - 1
    floor: float  # a token whose logit is at or below it is atypical
    log_total: float  # log sum exp of the logits

    @classmethod
    def of(cls, reading: Reading, row: int) -> TargetView:
        """The target's `row` of a reading."""
        logits, facts = reading.logits(row), reading.facts(row)
        if facts is not None:
            return cls(logits, reading.ids, typical_floor(logits), float(facts[1]))
        peak = float(logits.max())
        return cls(logits, reading.ids, typical_floor(logits), peak + float(np.log(np.exp(logits - peak).sum())))

    def logit(self, token: int) -> float:
        """The logit of `token`; -inf where the target cannot write it."""
        if self.ids is None:
            return float(self.logits[token])
        place = int(self.ids.searchsorted(token))
        return float(self.logits[place]) if place < len(self.ids) and self.ids[place] == token else -np.inf


def label(proposal: Proposal, scalars: FloatArray, view: TargetView, sampling: Sampling, context: list[int]) -> Labels:
    """The labels of a drafted token x at `context`.

    accept        a(x) = min(1, p(x) / q(x)) under the sampling transform
    accept_hard   1[q(x) <= p(x)] by plain softmax: the label of the paper's code
    overlap       sum_y min(p(y), q(y)) = 1 - TV(p, q) under the transform
    typical       1[p(x) > min(0.09, 0.3 exp(-H(p)))], p by plain softmax (arXiv:2401.10774)
    own_atypical  mass the target's law under the transform gives to atypical tokens
    """
    law = sampling.law(view.logits, context, view.ids)
    count = len(law.probs)
    common = np.minimum(law.probs, proposal.law.at(law.ids, count)[:count])  # [support of p]
    own_log_p = view.logit(proposal.token) - view.log_total
    return Labels(
        accept=acceptance(proposal.token, law, proposal.law),
        # scalars[1] is log q(x) at temperature 1; a hair of slack, for both logs are rounded.
        accept_hard=float(scalars[1] <= own_log_p + 1e-6),
        overlap=min(1.0, float(common.sum(dtype=np.float64))),
        typical=float(view.logit(proposal.token) > view.floor),
        own_atypical=mass_below(law, view.logits, view.floor),
    )


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one row, in the order of `LABELS`."""

    accept: float
    accept_hard: float
    overlap: float
    typical: float
    own_atypical: float

    def row(self) -> tuple[float, ...]:
        """The labels as numbers, [len(LABELS)]."""
        return (self.accept, self.accept_hard, self.overlap, self.typical, self.own_atypical)
