"""From the losses of single tokens to the numbers a p-value is made of: one sample in [0, 1] for each text length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sprinter.certify.journal import Measurement
from sprinter.certify.risks import Frame, Risk, risk_named

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """What prompts lost of one kind, up to each length: sums [prompts, lengths] and tokens written [prompts, lengths].

    With N the length, S a text's loss summed over its first N tokens and T <= N the tokens it has,

        E[ S/N + level (1 - T/N) ] <= level    if and only if    E[S] <= level E[T]

    so the mean of one bounded number a prompt proves "mean loss per token, all tokens alike, is at most the level",
    however the lengths of texts depend on what was drawn. A loss of whole texts has one column and its value.
    """

    risk: Risk
    lengths: tuple[int, ...]
    sums: Floats
    tokens: Floats
    frame: Frame

    @classmethod
    def of(cls, loss: str, rows: Sequence[Measurement], frame: Frame) -> Sample:
        """The sample of one loss from measured prompts."""
        risk = risk_named(loss)
        if not risk.by_token:
            values = np.array([[row.losses[loss][0]] for row in rows])
            return cls(risk, (frame.max_new_tokens,), values, np.ones_like(values), frame)
        lengths = frame.lengths
        most = max(lengths)
        table = np.array([[*row.losses[loss][:most], *[0.0] * (most - len(row.losses[loss]))] for row in rows])
        at = np.array(lengths) - 1
        written = np.array([[row.num_tokens] for row in rows], dtype=np.float64)
        return cls(risk, lengths, table.cumsum(axis=1)[:, at], np.minimum(written, np.array(lengths)), frame)

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def mean(self) -> float:
        """Mean over all tokens of the longest texts, or over texts."""
        return float(self.sums[:, -1].sum() / max(1.0, self.tokens[:, -1].sum()))

    @property
    def worst_mean(self) -> float:
        """The largest mean over any of the lengths."""
        return float((self.sums.sum(axis=0) / np.maximum(1.0, self.tokens.sum(axis=0))).max())

    def units(self, level: float) -> tuple[Floats, Floats]:
        """Numbers in [0, 1], [prompts, lengths], and the level on each length's scale, [lengths].

        Lengths at which nothing can be lost (a budget of nothing) are left out.
        """
        if not self.risk.by_token:
            low, high = np.array([self.risk.low]), np.array([self.risk.high])
            return _scaled(self.sums, level, low, high)
        length, low, high, can = _ranges(self.frame, self.risk)
        values = (self.sums + level * (length - self.tokens)) / length
        # A text that lost all it could in fewer tokens has `level` added for those it did not write.
        most = high + level * (1 - high / self.risk.high)
        if can.all():
            return _scaled(values, level, low, most)
        return _scaled(values[:, can], level, low[can], most[can])

    def extended(self, count: int) -> Sample:
        """This sample with `count` more prompts, each a little better than the mean so far: see `calibrate`."""
        error = self.sums.std(axis=0) / np.sqrt(len(self.sums))
        low = np.array([self.frame.spread(self.risk, length)[0] * length for length in self.lengths])
        if not self.risk.by_token:
            low = np.array([self.risk.low])
        sums = np.maximum(low, self.sums.mean(axis=0) - _HOPE_ERRORS * error)
        more = np.broadcast_to(sums, (count, len(self.lengths)))
        tokens = np.broadcast_to(self.tokens.mean(axis=0), more.shape)
        return Sample(
            self.risk,
            self.lengths,
            np.concatenate([self.sums, more]),
            np.concatenate([self.tokens, tokens]),
            self.frame,
        )

    @classmethod
    def clean(cls, loss: str, count: int, frame: Frame) -> Sample:
        """Prompts that lost nothing."""
        return cls.of(loss, [Measurement({loss: [0.0]}, frame.max_new_tokens, 1)] * count, frame)


# A level is given up at a threshold if it would fail even with the rest of the prompts this many standard errors
# better than those so far. Giving up can only lose a claim, never make a wrong one.
_HOPE_ERRORS = 3.0


@lru_cache
def _ranges(frame: Frame, risk: Risk) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """(length, least, most, whether anything can be lost), each [lengths]."""
    low, high = np.array([frame.spread(risk, length) for length in frame.lengths]).T
    return np.array(frame.lengths, dtype=np.float64), low, high, high > 0.0


def _scaled(values: Floats, level: float, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    # Rounding may leave a sum a hair outside its range.
    return np.clip((values - low) / (high - low), 0.0, 1.0), (level - low) / (high - low)
