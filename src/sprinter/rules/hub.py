"""Which path stands of a tree whose every place has hubs and one drawn token: SpecHub, arXiv:2411.05289."""

from __future__ import annotations

from collections.abc import Sequence

from sprinter.core.chance import OWN
from sprinter.core.law import acceptance, residual
from sprinter.core.reading import Reading
from sprinter.core.text import Text
from sprinter.rules.descent import Descent


class HubRule(Descent):
    """Test the drawn child by rejection; where it falls, draw from what is left and go on where a hub has that token.

    A drawn child comes from a law W of several tokens, a hub from a law of one. The hub transport of the paper has the
    law and the acceptance of rejection sampling with W alone, in whose residual the hubs keep their whole mass.
    """

    def step(self, text: Text, reading: Reading, node: int, children: Sequence[int]) -> tuple[int | None, int]:
        """See `Descent.step`."""
        tree, law = text.tree, reading.law(node + 1)
        hubs = {}
        for child in children:
            token, drawn_from = tree.tokens[child], tree.laws[child]
            if len(drawn_from.probs) == 1:
                hubs[token] = child
                continue
            if text.chance.accept(acceptance(token, law, drawn_from), text.round, child):
                return child, token
            law = residual(law, drawn_from)
        token = text.chance.draw(law, text.round, node + 1, OWN)
        return hubs.get(token), token
