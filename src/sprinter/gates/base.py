"""The protocol of a gate."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from sprinter.core.records import Draft
from sprinter.models.base import Capabilities


class Gate(Protocol):
    """Judges each drafted token from what the drafter knows, and says when to stop drafting."""

    @property
    def needs(self) -> Capabilities:
        """What the draft model must give."""

    def vouch(self, draft: Draft) -> tuple[float | None, bool]:
        """(score, vouched) for the newest token of `draft`, which has no word on it yet.

        A vouched token is final without the target's test unless an earlier token of the draft falls.
        """

    def keep_drafting(self, draft: Draft) -> bool:
        """Whether to draft another token before the target is called."""


@runtime_checkable
class PerSequence(Protocol):
    """What a gate adds that remembers more than the present draft."""

    def begin(self) -> None:
        """Forget the sequence before; the engine calls it at the start of each."""


class Scorer(Protocol):
    """Estimates, from the draft alone, the chance that the target would accept its newest token."""

    @property
    def needs(self) -> Capabilities: ...

    def score(self, draft: Draft) -> float:
        """f(x, s) in [0, 1] for the newest token of `draft`."""
