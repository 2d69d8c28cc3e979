"""Which blocks of a model a draft can do without: a search among sets of one size, on the text being written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sprinter.core.rows import Model, ModelInfo, Part
from sprinter.door import Door
from sprinter.errors import BackendError
from sprinter.models.base import check_blocks
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


@dataclass(slots=True)
class Search:
    """The search on one text: by turns any set, and the best so far with one block exchanged.

    Xia et al. 2024, SWIFT, arXiv:2410.06916, section 4, with three changes: the set it begins with is scored too, all
    sets of a text are scored on the same tokens, and exchanges take the place of Bayesian proposals.
    """

    best: Blocks
    score: float | None = None  # None: not scored yet
    tried: int = 0  # sets besides the first

    def step(self, model: Model, tokens: Sequence[int], start: int) -> bool:
        """Score one more set on the tokens from `start` on; whether it is the best now."""
        if self.score is None:
            self.score = matchness(model.without(self.best), tokens, start)
            return False
        blocks = self.proposal(model.info.num_layers)
        self.tried += 1
        score = matchness(model.without(blocks), tokens, start)
        if better := score > self.score:
            self.best, self.score = blocks, score
        return better

    def proposal(self, num_layers: int) -> Blocks:
        """The next set to try: a function of the best so far and of how many were tried."""
        rng = np.random.default_rng([self.tried, *sorted(self.best)])
        every = np.arange(2, 2 * num_layers - 2)
        if self.tried % 2 == 0 or len(self.best) == len(every):
            return frozenset(rng.choice(every, len(self.best), replace=False).tolist())
        gone = int(rng.choice(sorted(self.best)))
        come = int(rng.choice([block for block in every.tolist() if block not in self.best]))
        return self.best - {gone} | {come}


@dataclass(frozen=True, slots=True)
class _Found:
    left_out: list[int]


class Memory:
    """The best set found for a model so far, in a file that later runs begin with."""

    def __init__(self, folder: Path, info: ModelInfo, count: int) -> None:
        self._file = folder / "blocks" / f"{info.fingerprint[:20]}-{count}.json"
        self._info, self._count = info, count

    def recall(self) -> Blocks | None:
        """What is remembered; None if nothing is. Raises BackendError for a damaged file."""
        if not self._file.is_file():
            return None
        found = frozenset(_DOOR.json(self._file, _Found).left_out)
        last = 2 * self._info.num_layers - 3
        if len(found) != self._count or not all(2 <= block <= last for block in found):
            raise _DOOR.refuse(f"{self._file} names other blocks than {self._count} of 2 to {last}")
        return found

    def keep(self, blocks: Blocks) -> None:
        """Remember a better set; where nothing can be written, later runs search again."""
        check_blocks(self._info, blocks)
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, f'{{"left_out": {sorted(blocks)}}}\n')
