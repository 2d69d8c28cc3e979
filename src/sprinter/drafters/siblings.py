"""A draft that is a chain with siblings beside it: the more of them, the less sure the drafter is of its token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final, Self

import numpy as np

from sprinter.core.chance import DRAFT
from sprinter.core.law import Law, certain, without
from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Cache, FloatArray, IntArray, Model, Needs, Part, Views
from sprinter.core.settings import setting
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Verdict
from sprinter.drafters.model import writable
from sprinter.errors import ConfigError
from sprinter.gates.base import CapSettings

_MOST: Final = 25  # places; as the paper's code has it
# (confidence above which, tokens for the place when greedy, when sampled), the chain's own among them.
_WIDTHS: Final = ((0.95, 3, 1), (0.80, 5, 3), (0.50, 8, 5), (-1.0, 10, 10))


@dataclass(frozen=True)
class SiblingSettings(CapSettings):
    """How far a chain with siblings reaches."""

    confidence_floor: float = setting(0.8, "Draft no further behind a token that the drafter gives less than this.")

    def check(self) -> None:
        """See `PartSettings.check`."""
        super().check()
        if not 0 <= self.confidence_floor <= 1:
            raise ConfigError(f"confidence_floor is {self.confidence_floor}, but must be between 0 and 1")


@dataclass(slots=True)
class Chain:
    """What the model has read of one text, and its pending chain."""

    cache: Cache
    tokens: list[int] = field(default_factory=list)
    above: int = -1  # the node of the last of them, where there is one
    goes_on: bool = False
    stands: int = 0  # rows of the cache that a verdict has just let stand

    def rewind(self, length: int) -> None:
        """See `Note.rewind`: rows of the chain that stands need not be read again."""
        self.cache.truncate(min(self.cache.length, max(length, self.stands)))
        self.stands = 0


class SiblingDrafter:
    """Drafts one chain, and beside each of its tokens siblings on which nothing follows.

    SWIFT's candidates, Xia et al. 2024, arXiv:2410.06916: drawn without replacement, or when greedy the likeliest.
    How many depends on the confidence in the chain's own token, which is drawn first; the rule `exact` has the
    target's law from any such state.
    """

    Settings = SiblingSettings
    needs = Needs(full_laws=True)
    target_needs = Needs(trees=True)
    by_model = True
    gives_laws = True
    at_once = True

    def __init__(self, model: Model, length: int = _MOST, floor: float = 0.8) -> None:
        """`length`: most places of a chain; it ends behind a token of less confidence than `floor`."""
        self.model, self.length, self.floor = model, length, floor
        self._embed = model.embedding if model.gives.embedding else None

    @classmethod
    def build(cls, settings: SiblingSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls(kit.draft, chain_length(settings), settings.confidence_floor)

    def grow(self, texts: Sequence[Text]) -> None:
        """See `Drafter.grow`: the whole draft at a time."""
        growing = list(texts)
        for text in growing:
            chain = self._chain(text)
            chain.tokens, chain.above = [], len(text.tree) - 1
        while growing:
            parts = [self._part(text) for text in growing]
            for text, views in zip(growing, self.model.forward(parts), strict=True):
                self._add_place(text, views)
            growing = [text for text in growing if self._chain(text).goes_on]

    def learn(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Drafter.learn`: which rows of the chain stand."""
        chain = self._chain(text)
        tree, stem = text.tree, text.stem
        kept = sum(node < stem for node in verdict.path)
        if kept == stem:
            stands = (tree.tokens[n] == own for n, own in zip(verdict.path[stem:], chain.tokens, strict=False))
            kept += sum(takewhile(bool, stands))
        chain.stands = min(chain.cache.length, text.settled + kept)

    def _chain(self, text: Text) -> Chain:
        return text.note(self, lambda: Chain(self.model.open()))

    def _part(self, text: Text) -> Part:
        chain = self._chain(text)
        unread = chain.tokens[-1:] or text.tokens[chain.cache.length :]
        text.counters.draft_steps += 1
        text.counters.draft_tokens += len(unread)
        return Part(chain.cache, unread, 1)

    def _add_place(self, text: Text, views: Views) -> None:
        """The chain's next token and its siblings."""
        tree, chain, ids = text.tree, self._chain(text), self.model.head_tokens
        above = chain.above
        logits, facts = writable(self.model, text, views, 0)
        context = text.context(above) if text.sampling.reads_context else ()
        law = text.sampling.law(logits, context, ids, int(facts[0]))
        hidden = None if views.hidden is None else views.hidden[0]

        def draw(own: Law) -> int:
            token = text.chance.draw(own, text.round, tree.drafted, DRAFT)
            tree.add(Proposal(token, own, logits, facts, ids, hidden, self._embed), above)
            return token

        chain.above = len(tree)
        token = draw(law)
        chain.tokens.append(token)
        confidence = math.exp(tree.fresh[-1].own_logit - float(facts[1]))
        greedy = text.sampling.greedy
        width = next(g if greedy else s for above_this, g, s in _WIDTHS if confidence > above_this)
        if greedy:
            likeliest(width, logits, ids, draw, but=token)
        else:
            distinct(width, law, draw, but=token)
        chain.goes_on = (
            confidence >= self.floor
            and token not in text.limits.eos_ids
            and len(chain.tokens) < self.length
            and len(text.tokens) + len(chain.tokens) < text.reach
        )


def chain_length(settings: CapSettings) -> int:
    """Most places of a chain."""
    return settings.max_draft or _MOST


def likeliest(
    count: int, logits: FloatArray, ids: IntArray | None, draw: Callable[[Law], int], but: int | None = None
) -> None:
    """Draw the tokens of the `count` largest logits, the largest first, but for `but`, which is drawn already.

    Of a greedy law nothing but its one token is left, so siblings come from the logits.
    """
    for place in np.argsort(-logits, kind="stable")[:count].tolist():
        token = place if ids is None else int(ids[place])
        if token != but:
            draw(certain(token))


def distinct(count: int, law: Law, draw: Callable[[Law], int], but: int | None = None) -> None:
    """Draw `count` tokens without replacement, fewer if there are no more; `but` is one of them, drawn already."""
    left = min(count, int(np.count_nonzero(law.probs)))
    token = draw(law) if but is None else but
    for _ in range(left - 1):
        law = without(law, [token])
        token = draw(law)
