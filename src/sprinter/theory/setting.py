"""The three numbers that fix a threshold gate, shared by the simulation, the replay and the planner."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sprinter.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Setting:
    """v = 1[f >= threshold]; draft on while the product of the unvouched tokens' f exceeds `lookahead`, up to `cap`."""

    threshold: float
    lookahead: float = 1.0
    cap: int = 20
    test_last: bool = False  # test the last token of a full draft whoever vouched for it: the `paper` preset

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise ConfigError("threshold is not a number")
        if self.lookahead > 1.0 or math.isnan(self.lookahead):
            raise ConfigError(f"lookahead is {self.lookahead}, but must be at most 1 (1 stops at the first doubt)")
        if self.cap < 1:
            raise ConfigError(f"cap is {self.cap}, but a round drafts at least 1 token")

    @classmethod
    def exact(cls, length: int) -> Setting:
        """Exact decoding with `length` drafted tokens: nobody is vouched for and no score stops the draft."""
        return cls(math.inf, -1.0, length)

    @classmethod
    def lossless(cls, lookahead: float, cap: int = 20) -> Setting:
        """Exact decoding whose length the scores choose."""
        return cls(math.inf, lookahead, cap)
