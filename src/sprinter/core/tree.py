"""What was drafted since the last target call: a tree of tokens, each with the law it was drawn from."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sprinter.core.law import Law
from sprinter.core.records import Origin
from sprinter.core.rows import FloatArray, IntArray

# Tokens drafted on for a test after a text's allowance is used up: they are those a gate is sure of.
MOST_HELD: Final = 8

Path = Sequence[int]  # nodes from a child of the root downwards


@dataclass(frozen=True, slots=True)
class Proposal:
    """One drafted token and what the drafter knew when it drew it."""

    token: int
    law: Law  # after the sampling transform: what the token was drawn from
    logits: FloatArray | None = None  # [width], before the transform; None where no model drew
    facts: FloatArray | None = None  # [4], of the logits; see `rows.Facts`
    ids: IntArray | None = None  # tokens the logits stand for, [width]; None for 0 .. width - 1
    hidden: FloatArray | None = None  # [hidden], at the position that predicts the token
    embed: Callable[[int], FloatArray] | None = None  # token -> its input embedding [hidden]
    source: str | None = None  # where a copied token stands

    @property
    def own_logit(self) -> float:
        """The logit of the token itself."""
        assert self.logits is not None, "needs are compared before any model runs"
        place = self.token if self.ids is None else int(self.ids.searchsorted(self.token))
        return float(self.logits[place])


class Tree:
    """Drafted tokens with the gate's word on each; a chain is a tree without branches.

        nodes     0 - 1 - 2        parents None          (a chain)
                  0 - 1            parents [-1, 0, 0]
                   \\- 2

    What a node costs in memory is a few numbers: the law of a vouched token is forgotten, for the audit needs no more
    of it than the token's own probability.
    """

    __slots__ = (
        "allowance",
        "doubted",
        "drafted",
        "fresh",
        "held",
        "laws",
        "parents",
        "probs",
        "proposals",
        "scores",
        "sources",
        "survival",
        "tokens",
        "vouched",
    )

    def __init__(self) -> None:
        self.proposals: list[Proposal] | None = None  # of all nodes, where an observer wants to see them
        self.clear()

    def clear(self, allowance: float = math.inf) -> None:
        """Begin anew with an empty chain, in which at most `allowance` nodes may be vouched for."""
        self.allowance = allowance
        self.tokens = array("q")
        self.probs = array("d")  # q(x), under the sampling transform
        self.scores: list[float | None] = []
        self.vouched = bytearray()
        self.laws: dict[int, Law] = {}  # of the nodes nobody has vouched for
        self.sources: dict[int, str] = {}
        self.parents: list[int] | None = None
        self.fresh: list[Proposal] = []  # of the nodes the gate has not judged yet, the last ones
        self.drafted = 0  # additions since; none is taken back, so that no chance is used twice
        self.doubted = 0  # judged nodes nobody vouched for
        self.held: list[int] = []  # nodes a gate vouched for that are tested because nothing is left of the allowance
        self.survival = 1.0  # the gate's estimate that every one of those passes
        if self.proposals is not None:
            self.proposals = []

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def all_vouched(self) -> bool:
        """Whether every judged node is vouched for."""
        return not self.doubted and not self.held

    def add(self, proposal: Proposal, parent: int | None = None) -> None:
        """A node that the gate has not judged yet, behind `parent` (-1: the root); None lengthens a chain."""
        node = len(self.tokens)
        if parent is not None:
            if self.parents is None:
                self.parents = list(range(-1, node - 1))
            self.parents.append(parent)
        self.drafted += 1
        self.tokens.append(proposal.token)
        self.probs.append(proposal.law.prob(proposal.token))
        self.laws[node] = proposal.law
        self.fresh.append(proposal)
        if self.proposals is not None:
            self.proposals.append(proposal)
        if proposal.source is not None:
            self.sources[node] = proposal.source

    def settle(self, score: float | None, vouched: bool) -> None:
        """The gate's word on the first node it has not judged yet; beyond the allowance a vouched node is tested."""
        node = len(self.scores)
        stands = vouched and (self.allowance == math.inf or self.vouched.count(1) + 1 <= self.allowance)
        self.scores.append(score)
        self.vouched.append(stands)
        if stands:
            del self.laws[node]
        elif vouched:
            self.held.append(node)
        else:
            self.doubted += 1
        del self.fresh[0]

    def cut(self, count: int) -> None:
        """Drop all nodes but the first `count`."""
        judged = len(self.scores)
        del self.fresh[max(0, count - judged) :]
        for node in range(count, len(self.tokens)):
            self.laws.pop(node, None)
            self.sources.pop(node, None)
        kept = [node for node in self.held if node < count]
        self.doubted -= self.vouched[count:].count(0) - (len(self.held) - len(kept))
        self.held = kept
        for column in (self.tokens, self.probs, self.scores, self.vouched):
            del column[count:]
        for own in (self.parents, self.proposals):
            if own is not None:
                del own[count:]

    def parent(self, node: int) -> int:
        """The node above, -1 for the root."""
        return node - 1 if self.parents is None else self.parents[node]

    def ungrow(self, count: int) -> list[tuple[int, Proposal]]:
        """Take off all nodes but the first `count`, which are a chain and judged; (parent, proposal) of each.

        To be given back by `add`, or not.
        """
        taken = [(self.parent(count + place), proposal) for place, proposal in enumerate(self.fresh)]
        self.cut(count)
        self.parents = None
        return taken

    def path(self, node: int) -> list[int]:
        """The nodes from the root's child down to `node`."""
        if self.parents is None:
            return list(range(node + 1))
        path = []
        while node >= 0:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    def children(self, node: int) -> list[int]:
        """The nodes right below `node` (-1: the root), in the order they were added."""
        if self.parents is None:
            return [node + 1] if node + 1 < len(self.tokens) else []
        return [child for child, parent in enumerate(self.parents) if parent == node]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule lets stand: the nodes of `path`, then a token of the target's own if there is one."""

    path: Path
    token: int | None = None
    origin: Origin | None = None
