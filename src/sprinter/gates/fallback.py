"""Draft until the draft model itself is unsure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from sprinter.core.protocols import Kit
from sprinter.core.rows import Needs
from sprinter.core.settings import setting
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Tree
from sprinter.errors import ConfigError
from sprinter.gates.base import CapSettings, ChainGate, check_cap


@dataclass(frozen=True)
class FallbackSettings(CapSettings):
    """When the draft hands over."""

    fallback: float | None = setting(None, "Method bild: hand over where the draft's best token is below this (0.6).")

    @property
    def least_peak(self) -> float:
        """The paper tunes it per task; 0.6 lies in its range."""
        return 0.6 if self.fallback is None else self.fallback


class FallbackGate(ChainGate):
    """Stop at the first token whose law's peak, max_y q(y) at temperature 1, is below `fallback`; vouch for none.

    The fallback policy of Big Little Decoder (Kim et al. 2023, arXiv:2302.07863, section 3.2). `max_draft` bounds a
    round, which the paper leaves open.
    """

    needs = Needs(full_laws=True)
    Settings = FallbackSettings
    vouches = False

    @classmethod
    def build(cls, settings: FallbackSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls(settings.least_peak, settings.draft_cap)

    def __init__(self, fallback: float, max_draft: int | None = 20) -> None:
        if not 0 <= fallback <= 1:
            raise ConfigError(f"the fallback threshold is {fallback}, but must be between 0 and 1")
        check_cap(max_draft)
        self.fallback = fallback
        self.max_draft = max_draft

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        """See `ChainGate.vouch`."""
        # A rollback may still take any token back, so none is final before the target was called.
        if proposal.facts is None or proposal.logits is None:
            return 1.0, False
        return math.exp(float(proposal.logits[int(proposal.facts[0])]) - float(proposal.facts[1])), False

    def wants_more(self, tree: Tree) -> bool:
        """See `ChainGate.wants_more`."""
        full = self.max_draft is not None and len(tree.scores) >= self.max_draft
        return not full and not is_doubted(tree, self.fallback)


def is_doubted(tree: Tree, fallback: float) -> bool:
    """Whether the newest token is one the target must write in the draft's place."""
    score = tree.scores[-1] if tree.scores else None
    return score is not None and score < fallback
