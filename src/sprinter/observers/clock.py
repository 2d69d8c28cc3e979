"""Where the time of each text went, heard from outside the loop."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from sprinter.core.text import Text


class Stopwatch:
    """Fills `draft_s`, `gate_s` and `target_s` of each text's counters; one per engine, whose stages do not overlap.

    The seconds of a stage that serves several texts are shared out by the rows each had in it.
    """

    __slots__ = ("_began_s",)

    def __init__(self) -> None:
        self._began_s = 0.0

    def began(self, stage: str) -> None:
        """See `Clock.began`."""
        self._began_s = perf_counter()

    def ended(self, stage: str, texts: Sequence[Text]) -> None:
        """See `Clock.ended`."""
        taken_s = perf_counter() - self._began_s
        if not texts:
            return
        if len(texts) == 1:
            _charge(texts[0], stage, taken_s)
            return
        rows = [num_rows(text, stage) for text in texts]
        row_s = taken_s / sum(rows)
        for text, count in zip(texts, rows, strict=True):
            _charge(text, stage, count * row_s)


def num_rows(text: Text, stage: str) -> int:
    """Rows of a text in the stage that has just ended: its prompt too where nothing was read of it before."""
    if stage == "target":
        return len(text.tree) + (1 if text.round else text.settled)
    counters = text.counters
    return counters.draft_tokens if stage == "draft" and counters.draft_steps == 1 else 1


def _charge(text: Text, stage: str, taken_s: float) -> None:
    counters = text.counters
    if stage == "draft":
        counters.draft_s += taken_s
    elif stage == "verify":
        counters.gate_s += taken_s
    else:
        counters.target_s += taken_s
