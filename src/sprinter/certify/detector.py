"""An e-detector: evidence that a stream's mean has risen above a level, quiet for long where it has not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Shares of the largest safe stake, from "a breach tenfold" down to "one by a fifth".
BETS: Final = (0.9, 0.45, 0.22, 0.11, 0.055)


class Detector:
    """Shiryaev-Roberts, averaged over five bets: Shin, Ramdas and Rinaldo, arXiv:2203.03532.

        M <- (M + 1) (1 + bet x / reach)

    with x >= -reach what a request lost beyond its promise. While E[x | past] <= 0, each M less the number of requests
    is a supermartingale, and so is their mean. Stopped when that mean first reaches c, after tau requests, it therefore
    has c <= E[M] <= E[tau]: the mean time to a false alarm is at least c requests, whatever the stream.
    """

    def __init__(self, reach: float, evidence: Sequence[float] = (0.0,) * len(BETS)) -> None:
        self._reach = reach
        self.evidence = tuple(evidence)

    def update(self, beyond: float) -> float:
        """Take in the next request; the mean evidence now."""
        self.evidence = tuple(
            min(1e300, (m + 1.0) * (1.0 + bet * beyond / self._reach))
            for bet, m in zip(BETS, self.evidence, strict=True)
        )
        return self.mean_of(self.evidence)

    @staticmethod
    def mean_of(evidence: Sequence[float]) -> float:
        """What is compared with the mean time to a false alarm."""
        return sum(evidence) / len(evidence)
