"""The target's own log-probabilities of what was written, where every token has been tested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sprinter.core.reading import Reading
from sprinter.core.text import Text
from sprinter.core.tree import Verdict


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token, at temperature 1: log p of it, and of the likeliest tokens there."""

    token: int
    logprob: float  # nats
    top: tuple[tuple[int, float], ...]


class Logprobs:
    """Collects them token by token, in the text's order."""

    keeps_drafts = False

    def __init__(self, top: int) -> None:
        self.top = top
        self.found: list[Logprob] = []

    def saw(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Observer.saw`."""
        tree = text.tree
        for node in verdict.path:
            self.found.append(self._at(reading, tree.parent(node) + 1, tree.tokens[node]))
        if verdict.token is not None:
            row = verdict.path[-1] + 1 if len(verdict.path) else 0
            self.found.append(self._at(reading, row, verdict.token))

    def _at(self, reading: Reading, row: int, token: int) -> Logprob:
        logits = reading.logits(row).astype(np.float64)
        peak = logits.max()
        total = float(peak + np.log(np.exp(logits - peak).sum()))
        places = np.argsort(-logits, kind="stable")[: self.top].tolist()
        ids = places if reading.ids is None else [int(reading.ids[place]) for place in places]
        own = token if reading.ids is None else int(reading.ids.searchsorted(token))
        top = tuple((i, float(logits[place]) - total) for i, place in zip(ids, places, strict=True))
        return Logprob(token, float(logits[own]) - total, top)
