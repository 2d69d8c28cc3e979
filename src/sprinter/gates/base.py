"""What all gates over chains share: each new token judged in order, nothing kept behind the place to stop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sprinter.core.rows import Needs
from sprinter.core.settings import PartSettings, setting
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Tree
from sprinter.errors import ConfigError

DEFAULT_CAP = 20  # tokens; as the paper's code has it


@dataclass(frozen=True)
class CapSettings(PartSettings):
    """What bounds a round."""

    max_draft: int | None = setting(None, "Most tokens drafted before the target is called (default 20; 0: no limit).")

    def check(self) -> None:
        """See `PartSettings.check`."""
        if self.max_draft is not None and self.max_draft < 0:
            raise ConfigError(f"max_draft is {self.max_draft}, but must be 0 (no limit) or more")

    @property
    def draft_cap(self) -> int | None:
        """Most tokens drafted per round; None for no limit."""
        return DEFAULT_CAP if self.max_draft is None else self.max_draft or None


class ChainGate(ABC):
    """A gate of two questions: is this token vouched for, and shall another be drafted?

    A drafter may add several tokens at a time; those behind the place where the gate stops are dropped, so that a text
    does not depend on how many came at once.
    """

    needs = Needs()
    Settings: ClassVar[type[PartSettings]] = PartSettings

    @abstractmethod
    def vouch(self, text: Text, proposal: Proposal) -> tuple[float | None, bool]:
        """(score, vouched) for the first node that has not been judged, `proposal`."""

    @abstractmethod
    def wants_more(self, tree: Tree) -> bool:
        """Whether to draft another token behind the judged ones."""

    def judge(self, text: Text) -> bool:
        """See `Gate.judge`."""
        tree, ends = text.tree, text.limits.eos_ids
        while tree.fresh:
            newest = tree.fresh[0]
            tree.settle(*self.vouch(text, newest))
            if tree.fresh and (newest.token in ends or not self.wants_more(tree)):
                text.cut(len(tree.scores))
                return False
        return self.wants_more(tree)


def check_cap(max_draft: int | None) -> None:
    """Raise ConfigError for a cap that allows no draft; None is no cap."""
    if max_draft is not None and max_draft < 1:
        raise ConfigError(f"max_draft is {max_draft}, but must be at least 1")
