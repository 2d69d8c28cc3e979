"""The protocol of an acceptance rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sprinter.core.records import Draft, Law, Verdict
from sprinter.core.sampling import Dice


class AcceptanceRule(Protocol):
    """Turns a draft and the target's view of it into what stands."""

    def judge(self, draft: Draft, target_laws: Sequence[Law], dice: Dice) -> Verdict:
        """`target_laws` has len(draft) + 1 entries: the law before each drafted token, and after the last.

        drafted      x0    x1    x2
        target laws  p0    p1    p2    p3
        """
