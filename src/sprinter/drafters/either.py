"""Copies where the text repeats a reference, a model's draft everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Self

from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Model, Part
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Verdict
from sprinter.drafters.copies import CopyDrafter, CopySettings
from sprinter.drafters.model import DraftSettings, ModelDrafter, writable


@dataclass(frozen=True)
class EitherSettings(CopySettings, DraftSettings):
    """Of both drafters."""

    def check(self) -> None:
        """See `PartSettings.check`."""
        CopySettings.check(self)
        DraftSettings.check(self)


class EitherDrafter(ModelDrafter):
    """A copy as one pass of the draft model over all of it, else the model's own next token.

    The model reads what is copied, so a gate sees of a copied token what it sees of a drafted one, and may vouch for
    it; its law is still that of a copy, one token.
    """

    Settings = EitherSettings

    def __init__(self, model: Model, copies: CopyDrafter, chunk: int = 1) -> None:
        super().__init__(model, chunk)
        self.copies = copies
        self._head = None if model.head_tokens is None else frozenset(model.head_tokens.tolist())

    @classmethod
    def build(cls, settings: EitherSettings, kit: Kit) -> Self:  # type: ignore[override]
        """See `protocols.Kit`."""
        return cls(kit.draft, CopyDrafter.build(settings, kit), settings.draft_chunk or 1)

    def grow(self, texts: Sequence[Text]) -> None:
        """See `Drafter.grow`."""
        copied = [(text, self._readable(self.copies.copy(text))) for text in texts]
        if repeating := [(text, proposals) for text, proposals in copied if proposals]:
            self._read(repeating)
        if others := [text for text, proposals in copied if not proposals]:
            super().grow(others)

    def learn(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Drafter.learn`."""
        self.copies.learn(text, verdict, reading)

    def _readable(self, proposals: list[Proposal]) -> list[Proposal]:
        """Those before the first token that the model's head does not know: of it there would be no features."""
        known = self._head
        return proposals if known is None else list(takewhile(lambda p: p.token in known, proposals))

    def _read(self, copies: Sequence[tuple[Text, list[Proposal]]]) -> None:
        """Add the copies with what the model says where each of their tokens stands."""
        parts = []
        for text, proposals in copies:
            cache = self.cache_of(text)
            unread = [*text.tokens[cache.length :], *(p.token for p in proposals[:-1])]
            parts.append(Part(cache, unread, len(proposals)))
            text.counters.draft_steps += 1
            text.counters.draft_tokens += len(unread)
        for (text, proposals), views in zip(copies, self.model.forward(parts), strict=True):
            for row, proposal in enumerate(proposals):
                logits, facts = writable(self.model, text, views, row)
                hidden = None if views.hidden is None else views.hidden[row]
                ids, embed = self.model.head_tokens, self._embed
                text.add(replace(proposal, logits=logits, facts=facts, ids=ids, hidden=hidden, embed=embed))
