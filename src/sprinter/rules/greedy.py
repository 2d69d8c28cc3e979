"""Greedy acceptance: keep what the target would have chosen, then its own choice."""

from __future__ import annotations

import numpy as np

from sprinter.core.law import Law
from sprinter.core.reading import Reading
from sprinter.core.rows import Needs
from sprinter.core.text import Text
from sprinter.core.tree import Verdict


class GreedyRule:
    """Keeps drafted tokens while each is the target's most probable one: exact for greedy decoding, chain or tree."""

    needs = Needs()
    exact = True

    def judge(self, text: Text, reading: Reading) -> Verdict:
        """See `Rule.judge`."""
        tree, path, node = text.tree, [], -1
        while True:
            best = _best(reading.law(node + 1))
            children = tree.children(node)
            node = next((child for child in children if tree.tokens[child] == best), -1)
            if node < 0:
                return Verdict(path, best, "resampled" if children else "bonus")
            path.append(node)


def _best(law: Law) -> int:
    return law.token_at(int(np.argmax(law.probs)))
