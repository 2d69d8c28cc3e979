"""Greedy acceptance: keep what the target would have chosen, then its own choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sprinter.core.records import Draft, Law, Verdict
from sprinter.core.sampling import Dice


class GreedyRule:
    """Keeps drafted tokens while each is the target's most probable one: exact for greedy decoding."""

    def judge(self, draft: Draft, target_laws: Sequence[Law], dice: Dice) -> Verdict:
        for place, token in enumerate(draft.tokens):
            best = _best(target_laws[place])
            if token != best:
                return Verdict(place, best, "resampled")
        return Verdict(len(draft), _best(target_laws[len(draft)]), "bonus")


def _best(law: Law) -> int:
    return law.token_at(int(np.argmax(law.probs)))
