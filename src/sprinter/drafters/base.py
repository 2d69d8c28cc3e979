"""The protocol of a drafter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from sprinter.core.records import Counters, Proposal
from sprinter.core.sampling import Dice


class Drafter(Protocol):
    """Proposes one token at a time; a token's law must be the one it was really drawn from."""

    def propose(self, tokens: Sequence[int], dice: Dice, counters: Counters) -> Proposal:
        """Draw the token after `tokens` and say from what; count the work in `counters`."""


@runtime_checkable
class PerRound(Protocol):
    """What a drafter adds that works ahead of the gate."""

    def begin_round(self) -> None:
        """The next token asked for is the first since the last target call, or of a sequence."""
