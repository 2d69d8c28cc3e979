"""Exact acceptance by rejection: the output follows the target's law, whatever was drafted."""

from __future__ import annotations

from collections.abc import Sequence

from sprinter.core.chance import OWN
from sprinter.core.law import acceptance, residual
from sprinter.core.reading import Reading
from sprinter.core.text import Text
from sprinter.rules.descent import Descent


class ExactRule(Descent):
    """Test the children in the order they were drawn, each against what the ones before left of the target's law.

    In a chain that is rejection sampling: Leviathan et al. 2211.17192; Chen et al. 2302.01318. In a tree it is
    recursive: a child is tested with the law q_j it was drawn from, with q every time for draws with replacement, with
    q less the earlier siblings for draws without. Miao et al. 2023, SpecInfer, arXiv:2305.09781; Jeon et al. 2024,
    recursive speculative decoding, arXiv:2402.14160.
    """

    def __init__(self, bonus: bool = True) -> None:
        """Without `bonus` a draft that stands whole is followed by another draft, not by a token of the target's."""
        self.bonus = bonus

    def step(self, text: Text, reading: Reading, node: int, children: Sequence[int]) -> tuple[int | None, int]:
        """See `Descent.step`."""
        tree, law = text.tree, reading.law(node + 1)
        for child in children:
            token, drawn_from = tree.tokens[child], tree.laws[child]
            # A uniform of its own per token: sharing one ties acceptances together and biases the text.
            if text.chance.accept(acceptance(token, law, drawn_from), text.round, child):
                return child, token
            law = residual(law, drawn_from)
        return None, text.chance.draw(law, text.round, node + 1, OWN)
