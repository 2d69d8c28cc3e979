"""Gates that ask nobody."""

from __future__ import annotations

from sprinter.core.records import Draft
from sprinter.models.base import Capabilities


class FixedGate:
    """Always `length` tokens, none vouched for: classic speculative decoding. 0 is the target alone."""

    needs = Capabilities()

    def __init__(self, length: int) -> None:
        self.length = length

    def vouch(self, draft: Draft) -> tuple[float | None, bool]:
        return None, False

    def keep_drafting(self, draft: Draft) -> bool:
        return len(draft) < self.length


class OpenGate:
    """Vouches for everything and never stops: the draft model alone."""

    needs = Capabilities()

    def vouch(self, draft: Draft) -> tuple[float | None, bool]:
        return None, True

    def keep_drafting(self, draft: Draft) -> bool:
        return True
