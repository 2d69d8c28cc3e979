"""Down a tree with the target's own tokens: exact for any drafts, drawn or copied, in a chain or in branches."""

from __future__ import annotations

from collections.abc import Sequence

from sprinter.core.chance import OWN
from sprinter.core.reading import Reading
from sprinter.core.text import Text
from sprinter.rules.descent import Descent


class WalkRule(Descent):
    """Draw y from the target's law at the root; descend if y is a child, else y ends the round.

    Every emitted token is drawn from the target's law, so the output law is the target's whatever was drafted. The
    drafts' own laws play no part, which makes it the rule for drafts without one.
    """

    def step(self, text: Text, reading: Reading, node: int, children: Sequence[int]) -> tuple[int | None, int]:
        """See `Descent.step`."""
        token = text.chance.draw(reading.law(node + 1), text.round, node + 1, OWN)
        return next((child for child in children if text.tree.tokens[child] == token), None), token
