"""Gates that ask nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from sprinter.core.protocols import Kit
from sprinter.core.rows import Needs
from sprinter.core.settings import PartSettings, setting
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Tree
from sprinter.errors import ConfigError
from sprinter.gates.base import ChainGate
from sprinter.gates.confidence import Confidence

DEFAULT_LENGTH = 4
_LIKELIHOOD: Final = Confidence()


@dataclass(frozen=True)
class FixedSettings(PartSettings):
    """How long a draft of fixed length is."""

    draft_length: int | None = setting(None, "Tokens per round of the exact method (default 4).")

    def check(self) -> None:
        """See `PartSettings.check`."""
        if self.draft_length is not None and self.draft_length < 1:
            raise ConfigError(f"draft_length is {self.draft_length}, but must be at least 1")


class FixedGate(ChainGate):
    """Always `length` tokens, none vouched for: classic speculative decoding. 0 is the target alone."""

    Settings = FixedSettings
    vouches = False

    def __init__(self, length: int) -> None:
        self.length = length

    @classmethod
    def build(cls, settings: FixedSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls(DEFAULT_LENGTH if settings.draft_length is None else settings.draft_length)

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        """See `ChainGate.vouch`."""
        return None, False

    def wants_more(self, tree: Tree) -> bool:
        """See `ChainGate.wants_more`."""
        return len(tree.scores) < self.length


class OpenGate(ChainGate):
    """Vouches for everything and never stops: the draft model alone."""

    @classmethod
    def build(cls, settings: PartSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls()

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        """See `ChainGate.vouch`."""
        return None, True

    def wants_more(self, tree: Tree) -> bool:
        """See `ChainGate.wants_more`."""
        return True


class OnceGate(ChainGate):
    """Tests whatever the drafter gives at a time, and vouches for nobody: for drafters that know their own length."""

    vouches = False

    @classmethod
    def build(cls, settings: PartSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls()

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        """See `ChainGate.vouch`."""
        return None, False

    def wants_more(self, tree: Tree) -> bool:
        """See `ChainGate.wants_more`."""
        return not tree.scores

    def judge(self, text: Text) -> bool:
        """See `Gate.judge`: nothing of one growth is dropped, but what a chain has behind an end of text."""
        tree, ends = text.tree, text.limits.eos_ids
        while tree.fresh:
            newest = tree.fresh[0]
            tree.settle(*self.vouch(text, newest))
            if newest.token in ends and tree.parents is None:
                text.cut(len(tree.scores))
        return self.wants_more(tree)


class WeighedGate(OnceGate):
    """As `OnceGate`; the score it notes is the drafter's own likelihood of the token, for a rule that tests by it."""

    needs = Needs(full_laws=True)

    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        """See `ChainGate.vouch`."""
        return _LIKELIHOOD.score(text, proposal), False
