"""Vouch where a score is high enough; stop, or look a little further, where it is not."""

from __future__ import annotations

import math

from sprinter.core.records import Draft
from sprinter.errors import ConfigError
from sprinter.gates.base import Scorer


class ThresholdGate:
    """v = 1[f >= threshold]; draft on while the chance that every unvouched token survives exceeds `lookahead`.

    `lookahead` = 1 stops at the first unvouched token, which is SPRINTER (arXiv:2502.04557). Below 1 it drafts past
    doubtful tokens, so that one target call settles several. Survival is a matter of acceptance, whatever `scorer`
    vouches by: it is the product of what `survivor` says of the unvouched tokens, of the scores themselves where none
    is given. threshold = +inf vouches for nobody: exact decoding with a draft length the scorer chooses. `test_last`
    leaves the last token of a full draft unvouched whatever its score, as the paper's code does.
    """

    def __init__(
        self,
        scorer: Scorer,
        threshold: float,
        lookahead: float = 1.0,
        max_draft: int | None = 20,
        test_last: bool = False,
        survivor: Scorer | None = None,
    ) -> None:
        if math.isnan(threshold):
            raise ConfigError("threshold is not a number: give one between 0 (fast) and 1 (safe)")
        if not 0 <= lookahead <= 1:
            raise ConfigError(f"lookahead is {lookahead}, but must be between 0 and 1 (1 stops at the first doubt)")
        if max_draft is not None and max_draft < 1:
            raise ConfigError(f"max_draft is {max_draft}, but must be at least 1")
        self.scorer = scorer
        self.survivor = survivor
        self.needs = scorer.needs
        self.threshold = threshold
        self.lookahead = lookahead
        self.max_draft = max_draft
        self.test_last = test_last
        self._survival = 1.0  # chance that every unvouched token of the draft passes

    def vouch(self, draft: Draft) -> tuple[float | None, bool]:
        if len(draft) == 1:
            self._survival = 1.0
        score = self.scorer.score(draft)
        vouched = score >= self.threshold and not (self.test_last and len(draft) == self.max_draft)
        if not vouched:
            # The second word costs as much as the first, so only doubtful tokens are asked about.
            self._survival *= score if self.survivor is None else self.survivor.score(draft)
        return score, vouched

    def keep_drafting(self, draft: Draft) -> bool:
        if self.max_draft is not None and len(draft) >= self.max_draft:
            return False
        return len(draft) == 0 or draft.all_vouched or self._survival > self.lookahead
