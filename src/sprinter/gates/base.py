"""What all gates over chains share: each new token judged in order, nothing kept behind the place to stop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sprinter.core.rows import Needs
from sprinter.core.settings import PartSettings, setting
from sprinter.core.text import Text
from sprinter.core.tree import MOST_HELD, Proposal, Tree
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
    vouches = True
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
        if tree.parents is not None and tree.fresh:
            return self._judge_branches(text) if self.vouches else _settle_all(tree)
        while tree.fresh:
            newest = tree.fresh[0]
            tree.settle(*self.vouch(text, newest))
            if tree.fresh and (newest.token in ends or not self._goes_on(tree)):
                text.cut(len(tree.scores))
                return False
        return self._goes_on(tree)

    def _goes_on(self, tree: Tree) -> bool:
        return len(tree.held) < MOST_HELD and self.wants_more(tree)

    def _judge_branches(self, text: Text) -> bool:
        """Vouch down the line of first children, as far as it goes; below the first doubt all branches are tested.

        What stands beside a vouched token can no longer be of use. A sibling is never vouched for.
        """
        tree = text.tree
        first = len(tree.scores)
        taken = text.ungrow()
        node = _first_child(taken, first - 1, first)
        while node is not None:
            newest = taken[node - first][1]
            text.add(newest)
            tree.settle(*self.vouch(text, newest))
            if not tree.vouched[-1]:
                _regrow(tree, taken, first, node)
                return False
            if newest.token in text.limits.eos_ids or not self._goes_on(tree):
                return False
            node = _first_child(taken, node, first)
        return self._goes_on(tree)


def _settle_all(tree: Tree) -> bool:
    while tree.fresh:
        tree.settle(None, False)
    return False


def _first_child(taken: Sequence[tuple[int, Proposal]], node: int, first: int) -> int | None:
    """The first node of `taken`, which are numbered from `first` on, below `node`."""
    return next((first + place for place, (parent, _) in enumerate(taken) if parent == node), None)


def _regrow(tree: Tree, taken: Sequence[tuple[int, Proposal]], first: int, doubted: int) -> None:
    """Give the tree, whose last node is `doubted`, back what was taken of its siblings and of all below them."""
    last = len(tree) - 1
    now = {taken[doubted - first][0]: last - 1, doubted: last}  # numbers by those before
    for node, (parent, proposal) in enumerate(taken, start=first):
        if node != doubted and parent in now:
            now[node] = len(tree)
            tree.add(proposal, now[parent])
            tree.settle(None, False)


def check_cap(max_draft: int | None) -> None:
    """Raise ConfigError for a cap that allows no draft; None is no cap."""
    if max_draft is not None and max_draft < 1:
        raise ConfigError(f"max_draft is {max_draft}, but must be at least 1")
