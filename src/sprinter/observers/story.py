"""What became of every draft: for a person who wants to see how a text came about."""

from __future__ import annotations

from dataclasses import dataclass

from sprinter.core.reading import Reading
from sprinter.core.records import Origin
from sprinter.core.text import Text
from sprinter.core.tree import Verdict


@dataclass(frozen=True, slots=True)
class Node:
    """One drafted token."""

    token: int
    parent: int  # in the same round, -1: what the round began with
    drawn_with: float  # its probability under the law it was drawn from; 1 where it was chosen and not drawn
    target: float  # its probability under the target's law at its place
    score: float | None  # of the gate
    fate: Origin | None  # None: it fell


@dataclass(frozen=True, slots=True)
class Call:
    """One target call: the tree it read, and the token of the target's own behind what stood."""

    nodes: tuple[Node, ...]
    own: int | None
    origin: Origin | None  # of `own`


class Story:
    """Collects the rounds of one text."""

    keeps_drafts = False

    def __init__(self) -> None:
        self.rounds: list[Call] = []

    def saw(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Observer.saw`."""
        tree, stood = text.tree, set(verdict.path)
        nodes = [
            Node(
                token,
                tree.parent(node),
                tree.probs[node],
                reading.before(node).prob(token),
                tree.scores[node],
                ("vouched" if tree.vouched[node] else "tested") if node in stood else None,
            )
            for node, token in enumerate(tree.tokens)
        ]
        self.rounds.append(Call(tuple(nodes), verdict.token, verdict.origin if len(tree) else "target"))
