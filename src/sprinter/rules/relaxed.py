"""Every node of a tree tested for itself, the longest path kept: how the code of graph drafting accepts. Not exact."""

from __future__ import annotations

from typing import Self

from sprinter.core.chance import OWN
from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Needs
from sprinter.core.sampling import Sampling
from sprinter.core.settings import PartSettings
from sprinter.core.text import Text
from sprinter.core.tree import Verdict

_PLAIN = Sampling()


class RelaxedRule:
    """A node passes with probability min(1, p(x) / w(x)), whatever became of its siblings; the longest path stands.

    The stochastic mode of graph-structured speculative decoding's code (arXiv:2407.16207): p is the target's law and w
    the draft's likelihood of the token, both at temperature 1, w being the score that gate `weighed` notes. Drafts are
    not drawn, siblings get a try each, and what falls is not made up for by a residual: so the text's law is another
    one than the target's (`theory.relaxed` tells which). Behind the path comes the target's own choice.
    """

    needs = Needs(full_laws=True)
    exact = False
    lossy_tests = True
    Settings = PartSettings

    @classmethod
    def build(cls, settings: PartSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls()

    def judge(self, text: Text, reading: Reading) -> Verdict:
        """See `Rule.judge`."""
        path = self._longest(text, reading, -1)
        row = path[-1] + 1 if path else 0
        token = text.chance.draw(reading.law(row), text.round, row, OWN)
        return Verdict(path, token, "resampled" if text.tree.children(row - 1) else "bonus")

    def _longest(self, text: Text, reading: Reading, node: int) -> list[int]:
        """The longest path of passing nodes below `node`, the first of equal ones."""
        tree, best = text.tree, list[int]()
        children = tree.children(node)
        law = _PLAIN.law(reading.logits(node + 1), (), reading.ids) if children else None
        for child in children:
            likelihood = tree.scores[child]
            assert law is not None and likelihood is not None, "methods refuse gates that note no likelihood"
            if text.chance.accept(min(1.0, law.prob(tree.tokens[child]) / max(likelihood, 1e-300)), text.round, child):
                path = [child, *self._longest(text, reading, child)]
                best = max(best, path, key=len)
        return best
