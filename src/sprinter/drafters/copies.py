"""Drafting by copying from references: inference with reference (LLMA), Yang et al. 2023, arXiv:2304.04487."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

import numpy as np

from sprinter.core.law import Law
from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import IntArray, Needs
from sprinter.core.settings import PartSettings, setting
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Verdict
from sprinter.errors import ConfigError

PROMPT: Final = "-"  # stands for the text's own prompt
MOST_CHARACTERS: Final = 8 << 20  # of all references together
_LONGEST: Final = 5  # tokens of an ending that are compared
_MOST_MATCH: Final = 3  # so many ids of 21 bits fit into one key
_ID_BITS: Final = 21


@dataclass(frozen=True)
class CopySettings(PartSettings):
    """What may be copied, and how much at a time. The defaults lose on none of the tasks in docs/neighbours.md."""

    references: tuple[str, ...] = setting((), "Texts to copy from; '-' is the prompt itself.")
    copy_match: int = setting(2, "Tokens of the text's end that must stand in a reference before a copy.")
    copy_length: int = setting(8, "Tokens of a target call with a copy: the last one and those copied behind it.")

    def check(self) -> None:
        """See `PartSettings.check`."""
        if not 1 <= self.copy_match <= _MOST_MATCH:
            raise ConfigError(f"copy_match is {self.copy_match}, but must be from 1 to {_MOST_MATCH}")
        if not 2 <= self.copy_length <= 256:
            raise ConfigError(f"copy_length is {self.copy_length}, but must be from 2 to 256")
        if any(not text.strip() for text in self.references):
            raise ConfigError("a reference is empty: leave it out")
        if (size := sum(map(len, self.references))) > MOST_CHARACTERS:
            raise ConfigError(
                f"the references have {size} characters, but at most {MOST_CHARACTERS} can be copied from: give fewer"
            )


@dataclass(frozen=True, slots=True)
class Document:
    """A reference in tokens, with the characters each of them covers."""

    name: str
    ids: Sequence[int]
    spans: Sequence[tuple[int, int]] | None = None  # None: nobody knows


class Index:
    """Where the endings of a text stand in some documents: all places with the same `match` ids, by bisection.

    A lookup costs microseconds in a million tokens; the index takes 24 bytes a token.
    """

    def __init__(self, documents: Sequence[Document], match: int) -> None:
        """`match`: ids, 1 to 3. A document shorter than that can never be copied from."""
        self._documents, self._match = documents, match
        parts = [part for d in documents for part in (np.asarray(d.ids, np.int64), np.array([-1]))]
        self._tokens: IntArray = np.concatenate(parts) if parts else np.zeros(0, np.int64)  # -1 behind each document
        self._starts = np.cumsum([0, *(len(d.ids) + 1 for d in documents)])
        ends = np.arange(match, len(self._tokens))  # the places behind `match` ids
        runs = np.stack([self._tokens[ends - back] for back in range(match, 0, -1)], axis=-1)  # [ends, match]
        # A run over the end of a document begins no copy, nor does one with nothing behind it.
        ends = ends[(runs >= 0).all(axis=1) & (self._tokens[ends] >= 0)]
        keys = self._key(self._tokens, ends)
        order = np.argsort(keys, kind="stable")  # equal keys stay in reading order
        self._keys, self._ends = keys[order], ends[order]

    def find(self, ending: Sequence[int], going_on: int = -1) -> int:
        """The place behind the longest stretch that ends as `ending` does; -1 where nothing does.

        Of equally long ones the place `going_on`, where the last copy ended, then the last in reading order.
        """
        if len(ending) < self._match:
            return -1
        last = np.asarray(ending[-_LONGEST:], np.int64)
        key = self._key(last, np.array([len(last)]))[0]
        low, high = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        places = self._ends[low:high]
        for back in range(self._match + 1, len(last) + 1):
            longer = places[self._tokens[places - back] == last[-back]]
            if not len(longer):
                break
            places = longer
        if not len(places):
            return -1
        return going_on if going_on in places else int(places[-1])

    def stretch(self, place: int, length: int) -> list[int]:
        """Up to `length` ids from `place` on, none behind its document's end."""
        ids = self._tokens[place : place + length]
        ends = np.flatnonzero(ids < 0)
        found: list[int] = ids[: ends[0]].tolist() if len(ends) else ids.tolist()
        return found

    def source(self, place: int) -> str:
        """Which document's characters the id at `place` stands for, in words."""
        number = int(np.searchsorted(self._starts, place, "right")) - 1
        document = self._documents[number]
        if document.spans is None:
            return document.name
        first, behind = document.spans[place - int(self._starts[number])]
        return f"{document.name}, characters {first}-{behind}"

    def _key(self, tokens: IntArray, ends: IntArray) -> IntArray:
        key = np.zeros(len(ends), np.int64)
        for back in range(self._match, 0, -1):
            key = key << _ID_BITS | tokens[ends - back]
        return key


class Copying:
    """Where the last copy into a text came from, and the index it is looked up in."""

    __slots__ = ("index", "place", "start")

    def __init__(self, index: Index) -> None:
        self.index = index
        self.place = -1  # in the index, of the last copy's first token
        self.start = 0  # in the text

    def going_on(self, length: int) -> int:
        """The place that follows in the index if a text of `length` tokens goes on as the last copy did."""
        return -1 if self.place < 0 else self.place + length - self.start

    def rewind(self, length: int) -> None:
        """See `Note.rewind`."""
        if length < self.start:
            self.place = -1


class CopyDrafter:
    """Copies what follows where the end of the text stands in a reference; drafts nothing where it stands nowhere.

    A copied token is drawn from a law of one token. Only what was generated is looked for, never the prompt's end.
    """

    Settings = CopySettings
    needs = Needs()
    target_needs = Needs()
    by_model = False
    gives_laws = False
    at_once = True

    def __init__(self, documents: Sequence[Document], copies_prompt: bool, match: int = 2, length: int = 8) -> None:
        """`length`: K of the paper, tokens of a target call: a copy has one less."""
        self._documents, self._copies_prompt = documents, copies_prompt
        self.match, self.length = match, length
        self._index = lru_cache(maxsize=1)(lambda: Index(documents, match))

    @classmethod
    def build(cls, settings: CopySettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls(*_documents(settings, kit), settings.copy_match, settings.copy_length)

    def grow(self, texts: Sequence[Text]) -> None:
        """See `Drafter.grow`."""
        for text in texts:
            for proposal in self.copy(text):
                text.add(proposal)

    def copy(self, text: Text) -> list[Proposal]:
        """What to draft next behind what is pending; empty where nothing matches."""
        copying = text.note(self, lambda: Copying(self._index_for(text)))
        size = len(text.tokens)
        index, ending = copying.index, text.tokens[max(text.num_prompt, size - _LONGEST) :]
        place = index.find(ending, copying.going_on(size))
        if place < 0:
            return []
        copying.place, copying.start = place, size
        found = index.stretch(place, min(self.length - 1, text.reach - size))
        return [
            Proposal(token, Law(np.ones(1), np.array([token])), source=index.source(place + n))
            for n, token in enumerate(found)
        ]

    def learn(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Drafter.learn`: what stands of a copy is in the text."""

    def _index_for(self, text: Text) -> Index:
        if not self._copies_prompt:
            return self._index()
        own = Document("the prompt", text.tokens[: text.num_prompt])
        return Index([*self._documents, own], self.match)


def _documents(settings: CopySettings, kit: Kit) -> tuple[list[Document], bool]:
    """The references in tokens, and whether the prompt is one of them."""
    if not settings.references:
        raise ConfigError("nothing to copy from: give --reference FILE, or --reference - for the prompt itself")
    texts = [text for text in settings.references if text != PROMPT]
    # Cut alone, a text lacks the space that its first word has within another: the few first tokens differ.
    documents = [Document(f"reference {n}", *kit.cut(text)) for n, text in enumerate(texts, start=1)]
    return documents, len(texts) < len(settings.references)
