"""What all rules over trees share: from the root downwards, a child or the target's own token at each node."""

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
    """A rule that goes down a tree until a token of the target's own ends the round."""

    needs = Needs(full_laws=True)
    exact = True
    lossy_tests = False
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
        node, path = -1, list[int]()
        while True:
            children = text.tree.children(node)
            child, token = self.step(text, reading, node, children)
            if child is None:
                return Verdict(path, token, "resampled" if children else "bonus")
            path.append(child)
            node = child
