"""Drafts as trees with several tokens for each place, drawn so that a rule can use them all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from sprinter.core.chance import DRAFT
from sprinter.core.law import Law, certain, without
from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Cache, FloatArray, Model, Needs, Part, Views
from sprinter.core.settings import PartSettings, setting
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Tree, Verdict
from sprinter.drafters.model import writable
from sprinter.drafters.siblings import distinct, likeliest
from sprinter.errors import ConfigError

_MOST_BRANCHES: Final = 16
_MOST_NODES: Final = 256


@dataclass(frozen=True)
class TreeSettings(PartSettings):
    """The shape of a drafted tree."""

    branches: int = setting(2, "Tokens drafted for each place of a tree.")
    depth: int = setting(3, "Places a drafted tree reaches ahead.")

    def check(self) -> None:
        """See `PartSettings.check`."""
        if not 2 <= self.branches <= _MOST_BRANCHES:
            raise ConfigError(f"branches is {self.branches}, but must be from 2 to {_MOST_BRANCHES}")
        if not 1 <= self.depth <= _MOST_NODES:
            raise ConfigError(f"depth is {self.depth}, but must be at least 1")
        nodes = sum(self.branches**level for level in range(1, min(self.depth, 9) + 1))
        if nodes > _MOST_NODES:
            raise ConfigError(
                f"a tree of {self.branches} branches and depth {self.depth} has {nodes} tokens or more, but at most "
                f"{_MOST_NODES} go into one target call: give fewer"
            )


@dataclass(slots=True)
class Grown:
    """What the draft model has read of one text, and the tree that grows behind it."""

    cache: Cache
    tree: Tree
    root: int = -1  # the node it grows behind
    level: list[int] = field(default_factory=list)  # nodes whose children are to be drafted next
    rows: dict[int, int] = field(default_factory=dict)  # of the cache, by node

    def rewind(self, length: int) -> None:
        """See `Note.rewind`: a tree's rows are read again where they stood, a few more in the next pass."""
        self.cache.truncate(min(length, self.cache.length))


class TreeDrafter(ABC):
    """Drafts a whole tree at a time, level by level, all texts in one pass for each level."""

    Settings = TreeSettings
    needs = Needs(full_laws=True, trees=True)
    target_needs = Needs(trees=True)
    by_model = True
    gives_laws = True
    at_once = True

    def __init__(self, model: Model, branches: int = 2, depth: int = 3) -> None:
        self.model = model
        self.branches, self.depth = branches, depth
        self._embed = model.embedding if model.gives.embedding else None

    @classmethod
    def build(cls, settings: TreeSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls(kit.draft, settings.branches, settings.depth)

    @abstractmethod
    def siblings(self, text: Text, logits: FloatArray, law: Law, draw: Callable[[Law], int]) -> None:
        """Draw the nodes below one place: `draw` adds a node drawn from the law it is given and tells its token."""

    def grow(self, texts: Sequence[Text]) -> None:
        """See `Drafter.grow`."""
        for text in texts:
            grown = self._grown(text)
            grown.root = len(grown.tree) - 1
            grown.level, grown.rows = [grown.root], {grown.root: -1}
        growing = texts
        for level in range(self.depth):
            growing = [text for text in growing if self._grown(text).level and len(text.tokens) + level < text.reach]
            if growing:
                self._add_level(growing)

    def learn(self, text: Text, verdict: Verdict, reading: Reading) -> None:  # noqa: B027 - nothing to learn
        """See `Drafter.learn`: the text rewinds what was read of it."""

    def _grown(self, text: Text) -> Grown:
        return text.note(self, lambda: Grown(self.model.open(), text.tree))

    def _add_level(self, texts: Sequence[Text]) -> None:
        """The children of every node of the last level, after one pass over those nodes."""
        parts = [self._part(text) for text in texts]
        for text, views in zip(texts, self.model.forward(parts), strict=True):
            grown = self._grown(text)
            nodes, grown.level = grown.level, []
            for row, node in enumerate(nodes):
                self._branch(text, node, views, row)

    def _part(self, text: Text) -> Part:
        """The rows of the last level: what is settled and unread before the first, then its nodes."""
        grown = self._grown(text)
        text.counters.draft_steps += 1
        if grown.level == [grown.root]:
            unread = text.tokens[grown.cache.length :] or text.tokens[-1:]
            grown.cache.truncate(len(text.tokens) - len(unread))
            text.counters.draft_tokens += len(unread)
            return Part(grown.cache, unread, 1)
        text.counters.draft_tokens += len(grown.level)
        parents = [grown.rows[grown.tree.parent(node)] for node in grown.level]
        grown.rows.update((node, row) for row, node in enumerate(grown.level, start=len(grown.rows) - 1))
        return Part(grown.cache, [grown.tree.tokens[node] for node in grown.level], len(grown.level), parents)

    def _branch(self, text: Text, node: int, views: Views, row: int) -> None:
        """Draw the children of `node`, of which the model's `row` tells."""
        tree, ids = self._grown(text).tree, self.model.head_tokens
        logits, facts = writable(self.model, text, views, row)
        context = self._context(text, node) if text.sampling.reads_context else ()
        law = text.sampling.law(logits, context, ids, int(facts[0]))
        hidden = None if views.hidden is None else views.hidden[row]

        def draw(own: Law) -> int:
            token = text.chance.draw(own, text.round, tree.drafted, DRAFT)
            self._add(text, node, Proposal(token, own, logits, facts, ids, hidden, self._embed))
            return token

        self.siblings(text, logits, law, draw)

    def _context(self, text: Text, node: int) -> list[int]:
        """All tokens up to and including `node`."""
        return text.context(node)

    def _add(self, text: Text, above: int, proposal: Proposal) -> None:
        """What was drawn becomes a child of `above`."""
        grown = self._grown(text)
        if proposal.token not in text.limits.eos_ids:
            grown.level.append(len(grown.tree))
        grown.tree.add(proposal, above)


class HubDrafter(TreeDrafter):
    """Every place gets its likeliest tokens, the hubs, and one more drawn outside them.

    SpecHub, Sun et al. 2024, arXiv:2411.05289, for two branches; with k of them the k - 1 likeliest tokens are hubs.
    As its pairs can feed a token or the hub alike, they are one proposal W = q outside the hubs, normalised, beside
    hubs that are always there: acceptance p(hubs) + sum over the others of min(p, W).
    """

    def siblings(self, text: Text, logits: FloatArray, law: Law, draw: Callable[[Law], int]) -> None:
        """See `TreeDrafter.siblings`."""
        if text.sampling.greedy:
            likeliest(self.branches, logits, self.model.head_tokens, draw)
            return
        order = np.argsort(-law.probs, kind="stable")
        hubs = [law.token_at(place) for place in order[: self.branches - 1].tolist() if law.probs[place] > 0]
        for token in hubs:
            draw(certain(token))
        if law.probs[order[self.branches - 1 :]].any():
            draw(without(law, hubs))


class RepeatedDrafter(TreeDrafter):
    """Every place gets independent draws from the draft's law: recursive rejection with replacement (RRS)."""

    def siblings(self, text: Text, logits: FloatArray, law: Law, draw: Callable[[Law], int]) -> None:
        """See `TreeDrafter.siblings`."""
        if text.sampling.greedy:
            likeliest(self.branches, logits, self.model.head_tokens, draw)
            return
        for _ in range(self.branches):
            draw(law)


class DistinctDrafter(TreeDrafter):
    """Every place gets draws without replacement, each from what the ones before left: RRSw."""

    def siblings(self, text: Text, logits: FloatArray, law: Law, draw: Callable[[Law], int]) -> None:
        """See `TreeDrafter.siblings`."""
        if text.sampling.greedy:
            likeliest(self.branches, logits, self.model.head_tokens, draw)
        else:
            distinct(self.branches, law, draw)
