"""Gates that ask nobody."""

from __future__ import annotations

from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Tree
from sprinter.gates.base import ChainGate


class FixedGate(ChainGate):
    """Always `length` tokens, none vouched for: classic speculative decoding. 0 is the target alone."""

    def __init__(self, length: int) -> None:
        self.length = length

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        """See `ChainGate.vouch`."""
        return None, False

    def wants_more(self, tree: Tree) -> bool:
        """See `ChainGate.wants_more`."""
        return len(tree) < self.length


class OpenGate(ChainGate):
    """Vouches for everything and never stops: the draft model alone."""

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        """See `ChainGate.vouch`."""
        return None, True

    def wants_more(self, tree: Tree) -> bool:
        """See `ChainGate.wants_more`."""
        return True
