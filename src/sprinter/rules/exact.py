"""Exact acceptance: the output follows the target's law, whatever was drafted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from sprinter.core.chance import OWN
from sprinter.core.law import acceptance, residual
from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Needs
from sprinter.core.settings import PartSettings
from sprinter.core.text import Text
from sprinter.core.tree import Verdict


class ExactRule:
    """Rejection sampling of every drafted token of a chain. Leviathan et al. 2211.17192; Chen et al. 2302.01318."""

    needs = Needs(full_laws=True)
    exact = True
    lossy_tests = False
    Settings = PartSettings

    @classmethod
    def build(cls, settings: PartSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls()

    def __init__(self, bonus: bool = True) -> None:
        """Without `bonus` a draft that stands whole is followed by another draft, not by a token of the target's."""
        self.bonus = bonus

    def judge(self, text: Text, reading: Reading) -> Verdict:
        """See `Rule.judge`."""
        length = len(text.tree)
        rejection = first_rejection(text, reading, range(length))
        if rejection is not None:
            return rejection
        return own_token(text, reading, length) if self.bonus or not length else Verdict(range(length))


def first_rejection(text: Text, reading: Reading, places: Iterable[int]) -> Verdict | None:
    """Test the nodes at `places` of a chain in order; the verdict of the first failure, None if all pass."""
    tree, chance = text.tree, text.chance
    for place in places:
        law, draft_law = reading.law(place), tree.laws[place]
        # A uniform of its own per token: sharing one ties acceptances together and biases the text.
        if not chance.accept(acceptance(tree.tokens[place], law, draft_law), text.round, place):
            token = chance.draw(residual(law, draft_law), text.round, place, OWN)
            return Verdict(range(place), token, "resampled")
    return None


def own_token(text: Text, reading: Reading, length: int) -> Verdict:
    """The first `length` nodes of a chain stand, and the target draws the token behind them."""
    return Verdict(range(length), text.chance.draw(reading.law(length), text.round, length, OWN), "bonus")
