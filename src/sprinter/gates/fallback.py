"""Draft until the draft model itself is unsure."""

from __future__ import annotations

import numpy as np

from sprinter.core.records import Draft
from sprinter.errors import ConfigError
from sprinter.models.base import Capabilities


class FallbackGate:
    """Stop at the first token whose law's peak, max_y q(y) at temperature 1, is below `fallback`; vouch for none.

    The fallback policy of Big Little Decoder (Kim et al. 2023, arXiv:2302.07863, section 3.2). `max_draft` bounds a
    round, which the paper leaves open.
    """

    needs = Capabilities()

    def __init__(self, fallback: float, max_draft: int = 20) -> None:
        if not 0 <= fallback <= 1:
            raise ConfigError(f"the fallback threshold is {fallback}, but must be between 0 and 1")
        if max_draft < 1:
            raise ConfigError(f"max_draft is {max_draft}, but must be at least 1")
        self.fallback = fallback
        self.max_draft = max_draft

    def vouch(self, draft: Draft) -> tuple[float | None, bool]:
        logits = draft.proposals[-1].logits  # [width]
        # A rollback may still take any token back, so none is final before the target was called.
        return float(1 / np.exp(logits - logits.max()).sum()), False

    def keep_drafting(self, draft: Draft) -> bool:
        return len(draft) < self.max_draft and not is_doubted(draft, self.fallback)


def is_doubted(draft: Draft, fallback: float) -> bool:
    """Whether the newest token is one the target must write in the draft's place."""
    score = draft.scores[-1] if draft.scores else None
    return score is not None and score < fallback
