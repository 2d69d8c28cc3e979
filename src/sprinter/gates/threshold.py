"""Vouch where a score is high enough; stop, or look a little further, where it is not."""

from __future__ import annotations

import math

from sprinter.core.protocols import Scorer
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Tree
from sprinter.errors import ConfigError
from sprinter.gates.base import ChainGate, check_cap


class ThresholdGate(ChainGate):
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
        check_cap(max_draft)
        self.scorer = scorer
        self.survivor = survivor
        self.needs = scorer.needs if survivor is None else scorer.needs | survivor.needs
        self.threshold = threshold
        self.vouches = threshold < math.inf
        self.lookahead = lookahead
        self.max_draft = max_draft
        self.test_last = test_last

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        """See `ChainGate.vouch`."""
        tree = text.tree
        score = self.scorer.score(text, proposal)
        vouched = score >= self.threshold and not (self.test_last and len(tree.scores) + 1 == self.max_draft)
        if not vouched:
            # The second word costs as much as the first, so only doubtful tokens are asked about.
            tree.survival *= score if self.survivor is None else self.survivor.score(text, proposal)
        return score, vouched

    def wants_more(self, tree: Tree) -> bool:
        """See `ChainGate.wants_more`."""
        if self.max_draft is not None and len(tree.scores) >= self.max_draft:
            return False
        return not tree.doubted or tree.survival > self.lookahead
