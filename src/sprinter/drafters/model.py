"""Drafting with a smaller language model."""

from __future__ import annotations

from collections.abc import Sequence

from sprinter.core.chance import DRAFT
from sprinter.core.reading import Reading
from sprinter.core.rows import Cache, Model, Needs, Part, Views
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Verdict
from sprinter.models.base import facts_of


class Read:
    """What a model has read of one text."""

    __slots__ = ("cache",)

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def rewind(self, length: int) -> None:
        """See `Note.rewind`."""
        if self.cache.length > length:
            self.cache.truncate(length)


class ModelDrafter:
    """Draws one token a tick for each text from a draft model's law, all texts in one pass."""

    needs = Needs()
    target_needs = Needs()

    def __init__(self, model: Model) -> None:
        self.model = model
        self._embed = model.embedding if model.gives.embedding else None

    def grow(self, texts: Sequence[Text]) -> None:
        """See `Drafter.grow`."""
        parts = []
        for text in texts:
            cache = text.note(self, lambda: Read(self.model.open())).cache
            unread = text.tokens[cache.length :]
            parts.append(Part(cache, unread, 1))
            text.counters.draft_steps += 1
            text.counters.draft_tokens += len(unread)
        for text, views in zip(texts, self.model.forward(parts), strict=True):
            text.add(self._drawn(text, views))

    def learn(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Drafter.learn`: the text rewinds what was read of it."""

    def _drawn(self, text: Text, views: Views) -> Proposal:
        ids, logits, facts = self.model.head_tokens, views.logits[0], views.facts.table[0]  # [width], [4]
        if ids is None and len(logits) > text.limits.vocab_size:
            # Ids beyond the tokenizer's are padding of the head.
            logits = logits[: text.limits.vocab_size]
            facts = facts_of(logits[None]).table[0]
        law = text.sampling.law(logits, text.tokens, ids, int(facts[0]))
        token = text.chance.draw(law, text.round, len(text.tree), DRAFT)
        hidden = None if views.hidden is None else views.hidden[0]  # [hidden]
        return Proposal(token, law, logits, facts, ids, hidden, self._embed)
