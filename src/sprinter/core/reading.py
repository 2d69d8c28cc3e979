"""What the target says of a text's pending tree: a law before each node and behind it."""

from __future__ import annotations

from sprinter.core.law import Law
from sprinter.core.rows import FloatArray, IntArray, Views
from sprinter.core.text import Text


class Reading:
    """The target's rows over one text, each law computed when a rule or an observer first asks for it.

    tree      (root) x0 x1 x2
    rows         0    1  2  3        row i + 1 follows node i, row 0 what is settled
    """

    __slots__ = ("_laws", "_text", "_views", "ids", "whole")

    def __init__(self, text: Text, views: Views, ids: IntArray | None = None) -> None:
        """`ids`: tokens the logits stand for; None for 0 .. width - 1."""
        self._text = text
        self._views = views
        self._laws: dict[int, Law] = {}
        self.ids = ids
        self.whole = ids is not None or views.logits.shape[1] <= text.limits.vocab_size

    def logits(self, row: int) -> FloatArray:
        """[vocab], before any sampling transform."""
        logits: FloatArray = self._views.logits[row]
        return logits if self.whole else logits[: self._text.limits.vocab_size]

    def facts(self, row: int) -> FloatArray | None:
        """What is known of the row's logits, [4]; see `rows.Facts`. None where they cover more than may be written."""
        return self._views.facts.table[row] if self.whole else None

    def hidden(self, row: int) -> FloatArray | None:
        """The target's last hidden state, [hidden]."""
        return None if self._views.hidden is None else self._views.hidden[row]

    def law(self, row: int) -> Law:
        """The target's law under the text's sampling transform."""
        law = self._laws.get(row)
        if law is None:
            text, facts = self._text, self.facts(row)
            context = text.context(row - 1) if text.sampling.reads_context else ()
            best = None if facts is None else int(facts[0])
            law = self._laws[row] = text.sampling.law(self.logits(row), context, self.ids, best)
        return law

    def before(self, node: int) -> Law:
        """The law at the place of `node`: what the target would have drawn there."""
        return self.law(self._text.tree.parent(node) + 1)
