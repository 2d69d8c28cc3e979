"""The protocol of a drafter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from sprinter.records import Counters, Proposal
from sprinter.sampling import Dice


class Drafter(Protocol):
    """Proposes one token at a time; a token's law must be the one it was really drawn from."""

    def propose(self, tokens: Sequence[int], dice: Dice, counters: Counters) -> Proposal:
        """Draw the token after `tokens` and say from what; count the work in `counters`."""


@runtime_checkable
class PerRound(Protocol):
    """What a drafter adds that works ahead of the gate: the engine tells it where it stands."""

    def begin(self) -> None:
        """A new sequence starts."""

    def begin_round(self) -> None:
        """A new round starts: the next token is the first since the last target call."""
