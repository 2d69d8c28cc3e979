"""Next-token laws by their support, and what is done with them: drawing, accepting, what a rejection leaves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from sprinter.core.rows import FloatArray, IntArray
from sprinter.native import rows

_FEW = 8  # tokens looked up one by one rather than in a table of the whole vocabulary
_BLOCK = 512  # entries of a law summed at once when drawing


@dataclass(frozen=True, slots=True)
class Law:
    """A next-token law by its support: `probs[i]` is the probability of token `ids[i]`.

    `ids` ascend; None means the tokens 0 .. len(probs) - 1. A greedy law has one entry, a nucleus few
    hundred: nothing needs a whole vocabulary where the law is zero on most of it.
    """

    probs: FloatArray  # [support], sums to 1
    ids: IntArray | None = None  # [support]

    def prob(self, token: int) -> float:
        """Probability of `token`; 0.0 outside the support."""
        if self.ids is None:
            return float(self.probs[token]) if token < len(self.probs) else 0.0
        if len(self.ids) == 1:
            return float(self.probs[0]) if self.ids[0] == token else 0.0
        place = int(self.ids.searchsorted(token))
        if place < len(self.ids) and self.ids[place] == token:
            return float(self.probs[place])
        return 0.0

    def at(self, tokens: IntArray | None, count: int) -> FloatArray:
        """Probabilities of `tokens` (None: of 0 .. count - 1), [count]."""
        if tokens is not None and len(tokens) <= _FEW:
            return np.array([self.prob(token) for token in tokens.tolist()], self.probs.dtype)
        dense = self.dense(count if tokens is None else max(count, int(tokens[-1]) + 1))
        return dense if tokens is None else dense[tokens]

    def dense(self, vocab_size: int) -> FloatArray:
        """The law over the whole vocabulary, [vocab_size] or longer if its support reaches further."""
        if self.ids is None:
            if len(self.probs) >= vocab_size:
                return self.probs
            return np.concatenate([self.probs, np.zeros(vocab_size - len(self.probs), self.probs.dtype)])
        full = np.zeros(max(vocab_size, int(self.ids[-1]) + 1), self.probs.dtype)  # [vocab]
        full[self.ids] = self.probs
        return full

    def token_at(self, place: int) -> int:
        """The token of support entry `place`."""
        return place if self.ids is None else int(self.ids[place])


def certain(token: int) -> Law:
    """The law that gives `token` and nothing else."""
    return Law(np.ones(1), np.array([token]))


def without(law: Law, tokens: Collection[int]) -> Law:
    """`law` where it is none of `tokens`, normalised; something else must have weight."""
    probs = law.probs.astype(np.float64)
    for token in tokens:
        probs[token if law.ids is None else int(law.ids.searchsorted(token))] = 0
    return Law(probs / probs.sum(), law.ids)


def draw(law: Law, point: float) -> int:
    """The token where the distribution function of `law` reaches `point`, a uniform number in [0, 1)."""
    if len(law.probs) == 1:
        return law.token_at(0)
    probs, start = law.probs, 0
    if (place := rows.draw(probs, point)) is not None:
        return law.token_at(place)
    if len(probs) > _BLOCK:
        # The block first, then the place in it: a running sum over a whole vocabulary costs ten times as much.
        starts = np.arange(0, len(probs), _BLOCK)
        sums = np.add.reduceat(probs, starts, dtype=np.float64)
        block, point = _invert(sums, point)
        start = int(starts[block])
        probs = probs[start : start + _BLOCK]
    return law.token_at(start + _invert(probs, point)[0])


def _invert(weights: FloatArray, point: float) -> tuple[int, float]:
    """(place, point within it): where the share `point` of the weights is reached; never a place without weight."""
    mass = weights.cumsum(dtype=np.float64)  # [weights]
    wanted = point * mass[-1]
    place = int(mass.searchsorted(wanted, side="right"))
    if place == len(mass):
        # Rounding can push the product up to the total; the last place with weight is then meant.
        place = int(np.searchsorted(mass, mass[-1]))
    before = mass[place - 1] if place else 0.0
    return place, min(1.0, float((wanted - before) / (mass[place] - before)))


def residual(target_law: Law, draft_law: Law) -> Law:
    """norm((p - q)+), what is drawn from after a rejection. Leviathan et al. 2023, Algorithm 1, arXiv:2211.17192."""
    left = None if target_law.ids is not None else rows.residual(target_law.probs, draft_law.probs, draft_law.ids)
    if left is not None:
        return Law(left) if len(left) else target_law
    excess = _excess(target_law, draft_law)  # [support of p]
    total = excess.sum(dtype=np.float64)
    # p and q equal up to rounding leave no excess: the rejection itself was a rounding error, and p is the answer.
    return Law(excess / total, target_law.ids) if total > 0 else target_law


def _excess(target_law: Law, draft_law: Law) -> FloatArray:
    """(p - q)+ on the target law's support."""
    probs, drafted = target_law.probs, draft_law.ids
    if target_law.ids is not None or drafted is None or probs.dtype != draft_law.probs.dtype:
        return np.maximum(probs - draft_law.at(target_law.ids, len(probs))[: len(probs)], 0)
    # A draft's law has few entries beside a whole vocabulary, and where it has none the excess is p itself.
    known = int(drafted.searchsorted(len(probs)))
    excess, places = probs.copy(), drafted[:known]
    excess[places] = np.maximum(probs[places] - draft_law.probs[:known], 0)
    return excess


def acceptance(token: int, target_law: Law, draft_law: Law) -> float:
    """a(x) = min(1, p(x) / q(x)): the chance that exact speculative decoding keeps a drafted token x."""
    drafted = draft_law.prob(token)
    return min(1.0, target_law.prob(token) / drafted) if drafted > 0 else 1.0


def log_softmax(logits: FloatArray) -> FloatArray:
    """log of softmax over the last axis, in the input's precision."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
