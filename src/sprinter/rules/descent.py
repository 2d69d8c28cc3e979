"""What all rules over drafts share: from the root downwards, a child or the target's own token at each node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Needs
from sprinter.core.settings import PartSettings
from sprinter.core.text import Text
from sprinter.core.tree import Verdict


class Descent(ABC):
    """A rule that goes down a draft until a token of the target's own ends the round.

    What a gate has vouched for passes untested; a draft with nothing to test only catches the target up (its cache,
    the audit), and the round ends without a token of the target's own: arXiv:2502.04557, Algorithm 1. So with a gate
    that vouches for nobody the text has the target's law, and with one that does each rule tests the doubted rest.
    """

    needs = Needs(full_laws=True)
    exact = True
    lossy_tests = False
    bonus = True  # whether a draft that stands to its end is followed by a token of the target's
    Settings = PartSettings

    @classmethod
    def build(cls, settings: PartSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls()

    @abstractmethod
    def step(self, text: Text, reading: Reading, node: int, children: Sequence[int]) -> tuple[int | None, int]:
        """(child, its token) to go on with below `node` (-1: the root), or (None, the target's own token)."""

    def judge(self, text: Text, reading: Reading) -> Verdict:
        """See `Rule.judge`."""
        tree = text.tree
        if len(tree) and tree.all_vouched:
            return Verdict(range(len(tree)))
        node, path = -1, list[int]()
        while True:
            children = tree.children(node)
            if not children and path and not self.bonus:
                return Verdict(path)
            child = children[0] if children and tree.vouched[children[0]] else None
            if child is None:
                child, token = self.step(text, reading, node, children)
                if child is None:
                    return Verdict(path, token, "resampled" if children else "bonus")
            path.append(child)
            node = child
