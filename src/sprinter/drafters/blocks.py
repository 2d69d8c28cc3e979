"""Which blocks of a model a draft can do without: a search on the texts being written."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sprinter.core.rows import Model, ModelInfo, Part
from sprinter.door import Door
from sprinter.errors import BackendError
from sprinter.writing import write_text

WINDOW: Final = 32  # written tokens a set is judged on
_CONTEXT: Final = 256  # tokens before them that are read
_DOOR: Final = Door(BackendError, "delete it, and the blocks are searched for anew", strict=True, most_bytes=1 << 16)

Blocks = frozenset[int]  # see `core.rows.Model.without`


def num_blocks(info: ModelInfo, share: float) -> int:
    """How many blocks a share of them is; those of the first and the last layer always stay."""
    return int(2 * max(0, info.num_layers - 2) * share)


def spread(info: ModelInfo, count: int) -> Blocks:
    """`count` blocks at equal distances over the layers: where a search begins.

    The paper begins with every second layer, half of all blocks; sets are compared at one size here.
    """
    most = 2 * (info.num_layers - 2)
    return frozenset(2 + (2 * n + 1) * most // (2 * count) for n in range(count))


def matchness(view: Model, tokens: Sequence[int], start: int) -> float:
    """Share of the `WINDOW` tokens from place `start` on that are the view's likeliest ones, in one pass."""
    (views,) = view.forward([Part(view.open(), tokens[_first(start) : start + WINDOW - 1], WINDOW)])
    best = [views.facts.best(row) for row in range(WINDOW)]
    said = best if view.head_tokens is None else view.head_tokens[best].tolist()
    return float(np.mean(np.equal(said, tokens[start : start + WINDOW])))


def num_read(start: int) -> int:
    """Tokens that `matchness` reads."""
    return start + WINDOW - 1 - _first(start)


def _first(start: int) -> int:
    return max(0, start - _CONTEXT)


class Means:
    """How often a model is right without one of its blocks, over the texts on which that block was left out alone."""

    def __init__(self, info: ModelInfo, tried: Mapping[int, tuple[float, int]] | None = None) -> None:
        """`tried`: (sum of matches, texts) by block."""
        self._info = info
        self._tried = dict.fromkeys(range(2, 2 * info.num_layers - 2), (0.0, 0)) | dict(tried or {})

    def copy(self) -> Means:
        """Means of one's own."""
        return Means(self._info, self._tried)

    def note(self, block: int, matched: float) -> None:
        """One more text."""
        total, count = self._tried[block]
        self._tried[block] = (total + matched, count + 1)

    def next(self, but: Collection[int]) -> int | None:
        """The block tried on the fewest texts, the first of equal ones; None if all are in `but`."""
        left = [block for block in self._tried if block not in but]
        return min(left, key=lambda block: self._tried[block][1], default=None)

    def best(self, count: int) -> Blocks | None:
        """The `count` blocks that are missed least; None before every one was tried."""
        if not all(tried for _, tried in self._tried.values()):
            return None
        order = sorted(self._tried, key=lambda block: -self._tried[block][0] / self._tried[block][1])
        return frozenset(order[:count])

    def as_json(self) -> str:
        """What was tried, for `Memory`."""
        return json.dumps({"tried": {str(block): found for block, found in self._tried.items() if found[1]}})


class Search:
    """The search on one text: one more block left out alone, and by turns the set of those that are missed least.

    Xia et al. 2024, SWIFT, arXiv:2410.06916, section 4, searches among sets with the text being written. A set that
    wins on the few tokens of one text is no better on the next (docs/neighbours.md); what a model misses without single
    blocks adds up over texts, and the set of those it misses least carries over. Such a set is taken where this text's
    own tokens, on which the set it began with was scored first, say that it is better.
    """

    def __init__(self, start: Blocks, means: Means, memory: Memory | None = None) -> None:
        self.best = start
        self.score: float | None = None  # of `best`; None: not scored yet
        self.tried = 0  # passes besides the first
        self._means, self._memory = means.copy(), memory
        self._alone = set[int]()
        self._judged = {start}

    def step(self, model: Model, tokens: Sequence[int], start: int) -> bool:
        """One more pass over the tokens from `start` on; whether there is a better set now."""
        if self.score is None:
            self.score = matchness(model.without(self.best), tokens, start)
            return False
        self.tried += 1
        wanted = self._means.best(len(self.best))
        if wanted is not None and wanted not in self._judged:
            self._judged.add(wanted)
            score = matchness(model.without(wanted), tokens, start)
            if better := score > self.score:
                self.best, self.score = wanted, score
            return better
        block = self._means.next(self._alone)
        if block is not None:
            matched = matchness(model.without({block}), tokens, start)
            self._alone.add(block)
            self._means.note(block, matched)
            if self._memory is not None:
                self._memory.note(block, matched)
        return False


@dataclass(frozen=True, slots=True)
class _Found:
    tried: dict[str, tuple[float, int]]


class Memory:
    """What was found of a model's blocks so far, in a file that later runs begin with."""

    def __init__(self, folder: Path, info: ModelInfo) -> None:
        self._file = folder / "blocks" / f"{info.fingerprint[:20]}.json"
        self._info = info

    def recall(self) -> Means:
        """What is remembered. Raises BackendError for a damaged file."""
        if not self._file.is_file():
            return Means(self._info)
        found, last = _DOOR.json(self._file, _Found).tried, 2 * self._info.num_layers - 3
        for name, (total, count) in found.items():
            if not (name.isdecimal() and 2 <= int(name) <= last and 0 <= total <= count):
                raise _DOOR.refuse(
                    f"{self._file} speaks of block {name!r}, which is none of 2 to {last} or badly counted"
                )
        return Means(self._info, {int(name): pair for name, pair in found.items()})

    def note(self, block: int, matched: float) -> None:
        """Remember one more text; where nothing can be written, later runs try again."""
        with suppress(OSError):
            means = self.recall()
            means.note(block, matched)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, means.as_json() + "\n")
