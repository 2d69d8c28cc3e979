"""Drafting with a smaller language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from sprinter.core.chance import DRAFT
from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Cache, FloatArray, Model, Needs, Part, Views
from sprinter.core.settings import PartSettings, setting
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Verdict
from sprinter.errors import ConfigError
from sprinter.models.base import facts_of

MOST_CHUNK = 64  # steps


@dataclass(frozen=True)
class DraftSettings(PartSettings):
    """How a model drafts."""

    draft_chunk: int | None = setting(None, "Draft steps before the gate looks at what came; the text is the same.")

    def check(self) -> None:
        """See `PartSettings.check`."""
        if self.draft_chunk is not None and not 1 <= self.draft_chunk <= MOST_CHUNK:
            raise ConfigError(f"draft_chunk is {self.draft_chunk}, but must be between 1 and {MOST_CHUNK}")


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
    """Draws tokens from a draft model's law, for all texts in one pass; one a tick unless told otherwise."""

    Settings = DraftSettings
    needs = Needs()
    target_needs = Needs()
    by_model = True
    gives_laws = True
    at_once = False

    def __init__(self, model: Model, chunk: int = 1) -> None:
        """`chunk`: draft steps a tick. What the gate stops before was computed for nothing, and changes nothing."""
        self.model = model
        self.chunk = chunk
        self._embed = model.embedding if model.gives.embedding else None

    @classmethod
    def build(cls, settings: DraftSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls(kit.draft, settings.draft_chunk or 1)

    def grow(self, texts: Sequence[Text]) -> None:
        """See `Drafter.grow`."""
        self._step(texts)
        for _ in range(self.chunk - 1):
            if texts := [text for text in texts if text.has_room]:
                self._step(texts)

    def _step(self, texts: Sequence[Text]) -> None:
        parts = []
        for text in texts:
            cache = self.cache_of(text)
            unread = text.tokens[cache.length :]
            parts.append(Part(cache, unread, 1))
            text.counters.draft_steps += 1
            text.counters.draft_tokens += len(unread)
        for text, views in zip(texts, self.model.forward(parts), strict=True):
            text.add(self._drawn(text, views))

    def learn(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Drafter.learn`: the text rewinds what was read of it."""

    def cache_of(self, text: Text) -> Cache:
        """The model's memory of a text."""
        return text.note(self, lambda: Read(self.model.open())).cache

    def _drawn(self, text: Text, views: Views) -> Proposal:
        ids, (logits, facts) = self.model.head_tokens, writable(self.model, text, views, 0)
        law = text.sampling.law(logits, text.tokens, ids, int(facts[0]))
        token = text.chance.draw(law, text.round, len(text.tree), DRAFT)
        hidden = None if views.hidden is None else views.hidden[0]  # [hidden]
        return Proposal(token, law, logits, facts, ids, hidden, self._embed)


def writable(model: Model, text: Text, views: Views, row: int) -> tuple[FloatArray, FloatArray]:
    """(logits [width], facts [4]) of one of a model's rows, without what may not be written."""
    logits, facts = views.logits[row], views.facts.table[row]
    if model.head_tokens is None and len(logits) > text.limits.vocab_size:
        # Ids beyond the tokenizer's are padding of the head.
        logits = logits[: text.limits.vocab_size]
        facts = facts_of(logits[None]).table[0]
    return logits, facts
