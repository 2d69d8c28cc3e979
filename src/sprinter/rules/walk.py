"""Down a tree with the target's own tokens: exact for any drafts, drawn or copied, in a chain or in branches."""

from __future__ import annotations

from typing import Self

from sprinter.core.chance import OWN
from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Needs
from sprinter.core.settings import PartSettings
from sprinter.core.text import Text
from sprinter.core.tree import Verdict


class WalkRule:
    """Draw y from the target's law at the root; descend if y is a child, else y ends the round.

    Every emitted token is drawn from the target's law, so the output law is the target's whatever was drafted. The
    drafts' own laws play no part, which makes it the rule for drafts without one.
    """

    needs = Needs(full_laws=True)
    exact = True
    lossy_tests = False
    Settings = PartSettings

    @classmethod
    def build(cls, settings: PartSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls()

    def judge(self, text: Text, reading: Reading) -> Verdict:
        """See `Rule.judge`."""
        tree, node = text.tree, -1
        path: list[int] = []
        while True:
            token = text.chance.draw(reading.law(node + 1), text.round, node + 1, OWN)
            children = tree.children(node)
            node = next((child for child in children if tree.tokens[child] == token), -1)
            if node < 0:
                return Verdict(path, token, "resampled" if children else "bonus")
            path.append(node)
