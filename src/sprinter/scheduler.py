"""Who drafts on, who is asked about now, and who waits for company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Protocol

import numpy as np

from sprinter.core.rows import Model, Part
from sprinter.core.text import Text
from sprinter.theory.costs import WidthCost

WIDTHS: Final = (1, 2, 4, 8, 16, 32, 64)  # rows of a pass that is timed
_REPEATS: Final = 5
_CONTEXT: Final = 64  # tokens before a timed row
_ROUNDS: Final = 4  # of a text, before it is known what its drafts are worth
_LOOK_AGAIN: Final = 32  # rounds after which a text that no longer drafts tries once more


class Scheduler(Protocol):
    """Chooses among the texts of a tick."""

    def drafting(self, texts: Sequence[Text], num_ready: int) -> Sequence[Text]:
        """Those of `texts`, which could draft on, that do; the others are due with what they have."""

    def due(self, texts: Sequence[Text], num_drafting: int) -> Sequence[Text]:
        """Those of `texts`, which are due for a target call, to ask about in this tick."""


class Eager:
    """Everybody at once: the least waiting for each text, and company changes none."""

    def drafting(self, texts: Sequence[Text], num_ready: int) -> Sequence[Text]:
        """See `Scheduler.drafting`."""
        return texts

    def due(self, texts: Sequence[Text], num_drafting: int) -> Sequence[Text]:
        """See `Scheduler.due`."""
        return texts


class Gathering(Eager):
    """Wait until at least `share` of all running texts are due: a pass over many costs little more than over one."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def due(self, texts: Sequence[Text], num_drafting: int) -> Sequence[Text]:
        """See `Scheduler.due`."""
        return texts if len(texts) >= self.share * (len(texts) + num_drafting) else ()


@dataclass(frozen=True, slots=True)
class Curves:
    """Seconds of one pass by its rows, of both models of a pair on this machine."""

    draft: WidthCost
    target: WidthCost

    @classmethod
    def measured(cls, draft: Model, target: Model) -> Curves:
        """Timed now, in a second or two."""
        return cls(_curve(draft), _curve(target))


class Cheapest(Eager):
    """Drafts only where that is cheaper than plain target rows, by measured curves; else the target writes.

    With n texts in company a plain row costs t(n) / n, and a round of k drafted tokens that yields e costs a text
    (k d(n) + t(n (k + 1))) / n: the wider the company, the less a draft is worth. k and e are each text's own, from
    what it did so far. A text is only ever better than its method promises, but no longer the same in any company.
    """

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def drafting(self, texts: Sequence[Text], num_ready: int) -> Sequence[Text]:
        """See `Scheduler.drafting`; a draft that has begun goes on."""
        return [text for text in texts if len(text.tree) or self._pays(text, num_ready)]

    def _pays(self, text: Text, num_ready: int) -> bool:
        counters = text.counters
        rounds = counters.target_calls
        if not counters.draft_steps or rounds < _ROUNDS or rounds % _LOOK_AGAIN == 0:
            return True
        # What the target wrote alone, without a draft, says nothing of what drafts are worth.
        alone = text.plain_rounds
        drafted, yielded = counters.draft_steps, text.num_tokens - alone
        calls = max(1, rounds - alone)
        length = drafted / calls
        step, call = self.curves.draft(num_ready), self.curves.target(num_ready * (length + 1))
        return (length * step + call) * calls < yielded * self.curves.target(num_ready)


def _curve(model: Model) -> WidthCost:
    """Seconds of a pass over one row of each of so many texts."""
    tokens = [i % model.info.vocab_size for i in range(_CONTEXT)]
    caches = [model.open() for _ in range(max(WIDTHS))]
    for cache in caches:
        model.forward([Part(cache, tokens, 0)])
    seconds = []
    for width in WIDTHS:
        taken = []
        for _ in range(_REPEATS):
            started = perf_counter()
            model.forward([Part(cache, [1], 1) for cache in caches[:width]])
            taken.append(perf_counter() - started)
            for cache in caches[:width]:
                cache.truncate(_CONTEXT)
        seconds.append(float(np.median(taken)))
    return WidthCost(WIDTHS, tuple(np.maximum.accumulate(seconds).tolist()))
