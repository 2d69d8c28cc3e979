"""Logits to laws: temperature, top-k, top-p, min-p, repetition penalty. Pure, the same for both models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sprinter.core.law import Law
from sprinter.core.rows import FloatArray, IntArray
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

    @property
    def reads_context(self) -> bool:
        """Whether a law depends on the tokens before it, beyond what the logits say of them."""
        return self.repetition_penalty != 1

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
