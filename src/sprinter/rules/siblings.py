"""Which path stands of a tree whose siblings were drawn one after the other: recursive rejection sampling."""

from __future__ import annotations

from collections.abc import Sequence

from sprinter.core.chance import OWN
from sprinter.core.law import acceptance, residual
from sprinter.core.reading import Reading
from sprinter.core.text import Text
from sprinter.rules.descent import Descent


class SiblingsRule(Descent):
    """Test the children in the order they were drawn, each against what the ones before left of the target's law.

    A child is tested with the law q_j it was drawn from: with q every time for draws with replacement, with q less the
    earlier siblings for draws without. Miao et al. 2023, SpecInfer, arXiv:2305.09781; Jeon et al. 2024, recursive
    speculative decoding, arXiv:2402.14160.
    """

    def step(self, text: Text, reading: Reading, node: int, children: Sequence[int]) -> tuple[int | None, int]:
        """See `Descent.step`."""
        tree, law = text.tree, reading.law(node + 1)
        for child in children:
            token, drawn_from = tree.tokens[child], tree.laws[child]
            if text.chance.accept(acceptance(token, law, drawn_from), text.round, child):
                return child, token
            law = residual(law, drawn_from)
        return None, text.chance.draw(law, text.round, node + 1, OWN)
