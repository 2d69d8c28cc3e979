"""Who is asked about now, and who waits for company."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sprinter.core.text import Text


class Scheduler(Protocol):
    """Chooses among the texts that are due for a target call."""

    def due(self, texts: Sequence[Text], drafting: int) -> Sequence[Text]:
        """Those to ask about in this tick; `drafting`: how many other texts are still drafting on."""


class Eager:
    """Everybody at once: the least waiting for each text."""

    def due(self, texts: Sequence[Text], drafting: int) -> Sequence[Text]:
        return texts


class Gathering:
    """Wait until at least `share` of all running texts are due: a pass over many costs little more than over one."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def due(self, texts: Sequence[Text], drafting: int) -> Sequence[Text]:
        return texts if len(texts) >= self.share * (len(texts) + drafting) else ()
