"""Logits to laws: temperature, top-k, top-p, min-p, repetition penalty. Pure, the same for both models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sprinter.core.records import FloatArray, IntArray, Law, RowFacts
from sprinter.errors import ConfigError
from sprinter.native import rows


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling transform, in the order penalty, bans, temperature, top-k, top-p, min-p.

    Temperature 0 is greedy: a law with one token. Raises ConfigError for values out of range.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0 keeps every token
    top_p: float = 1.0  # 1 keeps every token
    min_p: float = 0.0  # 0 keeps every token
    repetition_penalty: float = 1.0
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < float("inf"), "temperature", self.temperature, "0 (greedy) or a finite number")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p < 1, "min_p", self.min_p, "at least 0 and below 1")
        _require(0 < self.repetition_penalty < float("inf"), "repetition_penalty", self.repetition_penalty, "above 0")
        _require(all(t >= 0 for t in self.banned), "banned", self.banned, "token ids of 0 or more")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def law(
        self, logits: FloatArray, context: Sequence[int], ids: IntArray | None = None, best: int | None = None
    ) -> Law:
        """The next-token law after `context`. `logits` [width] stand for `ids` (None: 0 .. width - 1).

        `best`: the place of the largest logit, where it is known.
        """
        if self.repetition_penalty != 1:
            logits = _penalised(logits, context, ids, self.repetition_penalty)
        if self.banned:
            logits = _with(logits, _places(self.banned, ids, len(logits)), -np.inf)
        if self.greedy:
            if best is None or self.banned or self.repetition_penalty != 1:
                best = int(logits.argmax())
            token = best if ids is None else int(ids[best])
            return Law(np.array([1], logits.dtype), np.array([token], np.int64))
        kept: IntArray | None = None  # places in `logits`, ascending
        if 0 < self.top_k < len(logits):
            cut = np.partition(logits, -self.top_k)[-self.top_k]
            kept = np.flatnonzero(logits >= cut)
            logits = logits[kept]
        probs = _softmax(logits, self.temperature)
        if self.top_p < 1 or self.min_p > 0:
            support = self._support(probs)
            probs = probs[support]
            probs /= probs.sum(dtype=np.float64)
            kept = support if kept is None else kept[support]
        if kept is not None:
            ids = kept if ids is None else ids[kept]
        return Law(probs, ids)

    def _support(self, probs: FloatArray) -> IntArray:
        """Ascending places that top-p and min-p keep of `probs` [width]."""
        # What weighs less than this is in neither set: a nucleus cannot need tokens that weigh 1 - top_p together.
        floor = max(self.min_p * float(probs.max()), (1 - self.top_p) / len(probs) * (1 - 1e-6))
        candidates = np.flatnonzero(probs >= floor)
        if self.top_p == 1:
            return candidates
        # Nearly always a thousandth bounds the nucleus too, and leaves little to sort.
        likely = np.flatnonzero(probs > max(floor, 1e-3))
        if probs[likely].sum(dtype=np.float64) >= self.top_p:
            candidates = likely
        order = candidates[np.argsort(-probs[candidates], kind="stable")]
        mass = np.cumsum(probs[order], dtype=np.float64)
        return np.sort(order[: int(np.searchsorted(mass, self.top_p)) + 1])


_BLOCK = 512  # entries of a law summed at once when drawing


class LazyLaws(Sequence[Law]):
    """The target's laws at every pending position, each computed when a rule or the audit first asks for it."""

    def __init__(
        self,
        sampling: Sampling,
        logits: FloatArray,
        tokens: Sequence[int],
        ids: IntArray | None = None,
        facts: RowFacts | None = None,
    ) -> None:
        """`logits` [rows, vocab]: row i follows the first len(tokens) - rows + 1 + i of `tokens`."""
        self._sampling = sampling
        self._logits = logits
        self._tokens = tokens
        self._ids = ids
        self._facts = facts
        self._laws: dict[int, Law] = {}

    def __len__(self) -> int:
        return len(self._logits)

    def __getitem__(self, row: int) -> Law:  # type: ignore[override]
        row = range(len(self))[row]
        if row not in self._laws:
            penalised = self._sampling.repetition_penalty != 1
            context = self._tokens[: len(self._tokens) - len(self) + 1 + row] if penalised else ()
            best = None if self._facts is None else self._facts.best(row)
            self._laws[row] = self._sampling.law(self._logits[row], context, self._ids, best)
        return self._laws[row]


class Dice:
    """All chance in one place: the caller's generator, never reseeded, a fresh uniform for every question."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._ahead: list[float] = []  # drawn from the generator, not yet used

    def peek(self, count: int) -> list[float]:
        """The next `count` uniforms, without using them: every later question is answered as if nobody had looked."""
        self._ahead += [self._rng.random() for _ in range(count - len(self._ahead))]
        return self._ahead[:count]

    def uniform(self) -> float:
        """The next uniform in [0, 1)."""
        return self._ahead.pop(0) if self._ahead else self._rng.random()

    def accept(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform() < probability

    def draw(self, law: Law) -> int:
        """A token from `law`, by inversion of its distribution function."""
        if len(law.probs) == 1:
            return law.token_at(0)
        probs, start = law.probs, 0
        point = self.uniform()
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


def _softmax(logits: FloatArray, temperature: float) -> FloatArray:
    probs = rows.softmax(logits, temperature)
    if probs is not None:
        return probs
    weights: FloatArray = logits - logits.max()
    if temperature != 1:
        weights /= temperature
    np.exp(weights, out=weights)
    weights /= weights.sum(dtype=np.float64)
    return weights


def _places(tokens: Sequence[int], ids: IntArray | None, width: int) -> IntArray:
    """Places of `tokens` in a row of logits over `ids`; tokens the row does not cover are left out."""
    wanted = np.asarray(tokens, np.int64)
    if ids is None:
        return wanted[wanted < width]
    places = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    found: IntArray = places[ids[places] == wanted]
    return found


def _with(logits: FloatArray, places: IntArray, values: FloatArray | float) -> FloatArray:
    changed = logits.copy()
    changed[places] = values
    return changed


def _penalised(logits: FloatArray, context: Sequence[int], ids: IntArray | None, penalty: float) -> FloatArray:
    """Make tokens of `context` less likely: Keskar et al. 2019, CTRL, section 4.1, arXiv:1909.05858."""
    places = _places(context, ids, len(logits))
    seen = logits[places]
    return _with(logits, places, np.where(seen > 0, seen / penalty, seen * penalty))


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value}, but must be {allowed}")
