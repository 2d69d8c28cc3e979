"""Drafting with the target itself, some of its blocks left out: SWIFT, Xia et al. 2024, arXiv:2410.06916."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from sprinter.cache import cache_dir
from sprinter.core.protocols import Drafter, Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Model, Needs
from sprinter.core.settings import PartSettings, setting
from sprinter.core.text import Text
from sprinter.core.tree import Verdict
from sprinter.drafters.blocks import WINDOW, Blocks, Means, Memory, Search, num_blocks, num_read, spread
from sprinter.drafters.model import ModelDrafter
from sprinter.drafters.siblings import SiblingDrafter, SiblingSettings, chain_length
from sprinter.errors import ConfigError

_MOST_VIEWS: Final = 64


@dataclass(frozen=True)
class SkipSettings(PartSettings):
    """How much of the target a draft leaves out."""

    skip_share: float = setting(0.1, "Share of the target's attention and MLP blocks that a draft leaves out.")
    skip_search: int = setting(
        16, "Tries with other blocks left out while a text is written, one a target call; 0: none."
    )

    def check(self) -> None:
        """See `PartSettings.check`."""
        if not 0 < self.skip_share <= 0.9:
            raise ConfigError(f"skip_share is {self.skip_share}, but must be above 0 and at most 0.9")
        if self.skip_search < 0:
            raise ConfigError(f"skip_search is {self.skip_search}, but must be 0 (no search) or more")


@dataclass(frozen=True)
class SkipSiblingSettings(SkipSettings, SiblingSettings):
    """Of a chain with siblings."""

    def check(self) -> None:
        """See `PartSettings.check`."""
        SkipSettings.check(self)
        SiblingSettings.check(self)


class Searching:
    """Where the search on one text stands."""

    __slots__ = ("search",)

    def __init__(self, start: Blocks, means: Means, memory: Memory | None) -> None:
        self.search = Search(start, means, memory)

    def rewind(self, length: int) -> None:
        """See `Note.rewind`: sets are judged on settled tokens."""


class ThinDrafter(ABC):
    """Each text is drafted by a view of the target that leaves out the best set of blocks found on that text.

    A view has caches of its own, so neither drafting nor searching touches the target's. All texts begin with one set,
    and search each for itself: company changes none of them. What they find out the next drafter begins with.
    """

    needs = Needs()
    target_needs = Needs(full_laws=True, trees=True, blocks=True)
    by_model = False
    gives_laws = True
    at_once = True

    def __init__(self, target: Model, start: Blocks, tries: int = 0, memory: Memory | None = None) -> None:
        """`start`: what is left out first; `tries`: sets tried on each text, once it has `WINDOW` tokens."""
        self.target, self.start, self.tries, self.memory = target, start, tries, memory
        self._means = Means(target.info) if memory is None else memory.recall()
        # One that falls out of this is made again: its texts are then read anew, and go on the same.
        self._by = lru_cache(maxsize=_MOST_VIEWS)(lambda blocks: self.drafter(self.target.without(blocks)))

    @abstractmethod
    def drafter(self, view: Model) -> Drafter:
        """What drafts with a view."""

    def grow(self, texts: Sequence[Text]) -> None:
        """See `Drafter.grow`."""
        groups: dict[Blocks, list[Text]] = {}
        for text in texts:
            groups.setdefault(self._searching(text).search.best, []).append(text)
        for blocks, group in groups.items():
            self._by(blocks).grow(group)

    def learn(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Drafter.learn`; one more set is tried."""
        search = self._searching(text).search
        old = search.best
        self._by(old).learn(text, verdict, reading)
        if search.tried >= self.tries or text.settled - text.num_prompt < WINDOW:
            return
        text.counters.draft_tokens += num_read(text.num_prompt)
        if search.step(self.target, text.tokens[: text.settled], text.num_prompt):
            text.notes.pop(self._by(old), None)

    def _searching(self, text: Text) -> Searching:
        return text.note(self, lambda: Searching(self.start, self._means, self.memory))


class LayerChainDrafter(ThinDrafter):
    """One token a tick, for any gate."""

    Settings = SkipSettings
    at_once = False

    @classmethod
    def build(cls, settings: SkipSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls(*_search(settings, kit))

    def drafter(self, view: Model) -> Drafter:
        """See `ThinDrafter.drafter`."""
        return ModelDrafter(view)


class LayerDrafter(ThinDrafter):
    """A chain with siblings at a time: the paper's draft."""

    Settings = SkipSiblingSettings
    length, floor = chain_length(SiblingSettings()), SiblingSettings().confidence_floor

    @classmethod
    def build(cls, settings: SkipSiblingSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        made = cls(*_search(settings, kit))
        made.length, made.floor = chain_length(settings), settings.confidence_floor
        return made

    def drafter(self, view: Model) -> Drafter:
        """See `ThinDrafter.drafter`."""
        return SiblingDrafter(view, self.length, self.floor)


def _search(settings: SkipSettings, kit: Kit) -> tuple[Model, Blocks, int, Memory]:
    info = kit.target.info
    count = num_blocks(info, settings.skip_share)
    if not count:
        raise ConfigError(
            f"{settings.skip_share:g} of {info.name}'s blocks is none: it has {info.num_layers} layers, and its first "
            "and last stay; give a larger --skip-share"
        )
    memory = Memory(cache_dir(), info)
    return kit.target, memory.recall().best(count) or spread(info, count), settings.skip_search, memory
