"""Drafts as a graph: a branch that comes to a token drafted before goes on as that one did, without being drafted."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from sprinter.core.law import Law, certain
from sprinter.core.protocols import Kit
from sprinter.core.rows import FloatArray, Model
from sprinter.core.settings import PartSettings, setting
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Tree
from sprinter.drafters.hub import Grown, TreeDrafter
from sprinter.errors import ConfigError

_MOST_NODES: Final = 256
_MOST_WIDTH: Final = 16


@dataclass(frozen=True)
class GraphSettings(PartSettings):
    """How a drafted graph grows, and what of it one target call tests."""

    merge: int = setting(
        0, "Branches meet where they share a token (0), a token and the one before (1), or never (-1)."
    )
    graph_nodes: int = setting(24, "Most tokens of a graph that one target call tests.")
    graph_width: int = setting(4, "Most tokens tried behind each node of a graph.")
    graph_depth: int = setting(12, "Places a drafted graph reaches ahead.")
    graph_ratio: float = setting(0.3, "Behind a node try no token less likely than this times the likeliest.")
    graph_floor: float = setting(0.3, "Draft on while some branch is made of tokens at least this likely.")

    def check(self) -> None:
        """See `PartSettings.check`."""
        whole = {
            "merge": (-1, 1),
            "graph_nodes": (1, _MOST_NODES),
            "graph_width": (1, _MOST_WIDTH),
            "graph_depth": (1, _MOST_NODES),
        }
        shares = {"graph_ratio": (0, 1), "graph_floor": (0, 1)}
        for name, (least, most) in (whole | shares).items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"{name} is {value}, but must be from {least} to {most}")


@dataclass(slots=True)
class Graph(Grown):
    """A drafted graph: a tree of drafted nodes, and every node's followers, drafted below it or elsewhere.

    Followers are the node's own children and the nodes it was merged into, in the order they were proposed. There is
    no way from a node back to itself.
    """

    followers: dict[int, list[int]] = field(default_factory=dict)  # -1: the root
    stalled: set[int] = field(default_factory=set)  # nodes with an unlikely token on their way from the root
    merged: set[int] = field(default_factory=set)  # nodes of the text's tree that a merge led to
    merges: int = 0  # in the life of the text

    def begin(self) -> None:
        """An empty graph."""
        self.tree.clear()
        for own in (self.followers, self.stalled, self.merged):
            own.clear()

    def leads(self, start: int, end: int) -> bool:
        """Whether there is a way from `start` to `end`, or they are one node."""
        seen, waiting = {start}, [start]
        while waiting:
            node = waiting.pop()
            if node == end:
                return True
            more = [follower for follower in self.followers.get(node, ()) if follower not in seen]
            seen.update(more)
            waiting += more
        return False

    def unrolled(self, most: int, depth: int) -> Iterator[tuple[int, int, bool]]:
        """(parent, node, whether merged) of at most `most` copies of nodes, breadth first, at most `depth` deep.

        `parent` numbers the copies from 0 on, -1 is the root; a copy is merged if a merge lies on its way.
        """
        waiting, count = deque([(-1, -1, 0, False)]), 0
        while waiting:
            node, copy, level, merged = waiting.popleft()
            for follower in self.followers.get(node, ()) if level < depth else ():
                if count == most:
                    return
                there = merged or self.tree.parent(follower) != node
                yield copy, follower, there
                waiting.append((follower, count, level + 1, there))
                count += 1


class GraphDrafter(TreeDrafter):
    """Drafts the likeliest tokens behind each node; one that stands elsewhere too is followed by what is there.

    Graph-structured speculative decoding, Gong et al. 2024, arXiv:2407.16207. What a merge leads to was drafted behind
    another prefix, so it is only a guess, like every draft; the target tests the graph unrolled into a tree. A node is
    drawn from a law of one token. Drafting ends when the unrolled graph is full, or no branch is likely any more.
    """

    Settings = GraphSettings  # type: ignore[assignment]

    def __init__(self, model: Model, settings: GraphSettings | None = None) -> None:
        self.told = GraphSettings() if settings is None else settings
        super().__init__(model, self.told.graph_width, self.told.graph_depth)

    @classmethod
    def build(cls, settings: GraphSettings, kit: Kit) -> Self:  # type: ignore[override]
        """See `protocols.Kit`."""
        return cls(kit.draft, settings)

    def grow(self, texts: Sequence[Text]) -> None:
        """See `Drafter.grow`."""
        for text in texts:
            self._grown(text).begin()
        super().grow(texts)
        for text in texts:
            self._unroll(text)

    def siblings(self, text: Text, logits: FloatArray, law: Law, draw: Callable[[Law], int]) -> None:
        """See `TreeDrafter.siblings`."""
        ids, peak = self.model.head_tokens, float(logits.max())
        for place in np.argsort(-logits, kind="stable")[: self.branches].tolist():
            if math.exp(float(logits[place]) - peak) < self.told.graph_ratio:
                return
            draw(certain(place if ids is None else int(ids[place])))

    def _grown(self, text: Text) -> Graph:
        return text.note(self, lambda: Graph(self.model.open(), Tree()))

    def _context(self, text: Text, node: int) -> list[int]:
        tree = self._grown(text).tree
        return text.tokens + [tree.tokens[n] for n in tree.path(node)]

    def _add_level(self, texts: Sequence[Text]) -> None:
        super()._add_level(texts)
        for text in texts:
            graph = self._grown(text)
            if graph.stalled.issuperset(graph.level) or self._is_full(graph):
                graph.level = []

    def _is_full(self, graph: Graph) -> bool:
        most = self.told.graph_nodes
        return sum(1 for _ in graph.unrolled(most, self.depth)) == most

    def _add(self, text: Text, above: int, proposal: Proposal) -> None:
        graph = self._grown(text)
        followers = graph.followers.setdefault(above, [])
        same = self._same(text, graph, above, proposal.token)
        if same is not None:
            followers.append(same)
            graph.merges += 1
        elif len(graph.tree) < self.told.graph_nodes:
            node = len(graph.tree)
            followers.append(node)
            assert proposal.facts is not None, "a model drafts"
            likelihood = math.exp(proposal.own_logit - float(proposal.facts[1]))
            if above in graph.stalled or likelihood < self.told.graph_floor:
                graph.stalled.add(node)
            super()._add(text, above, proposal)

    def _same(self, text: Text, graph: Graph, above: int, token: int) -> int | None:
        """The first node that `token` below `above` can be merged into, if there is one."""
        if self.told.merge < 0:
            return None
        tree = graph.tree

        def word(node: int) -> int:
            return text.tokens[-1] if node < 0 else tree.tokens[node]

        for node, own in enumerate(tree.tokens):
            alike = own == token and (not self.told.merge or word(tree.parent(node)) == word(above))
            if alike and not graph.leads(node, above):
                return node
        return None

    def _unroll(self, text: Text) -> None:
        """What the target will read: the graph as a tree, no deeper than there is room."""
        graph, first = self._grown(text), len(text.tree)
        for parent, node, merged in graph.unrolled(self.told.graph_nodes, text.reach - len(text.tokens)):
            if merged:
                graph.merged.add(len(text.tree))
            text.tree.add(graph.tree.fresh[node], first + parent)
