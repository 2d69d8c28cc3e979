"""Scores that the drafter's device has computed ahead of the gate."""

from __future__ import annotations

from sprinter.core.records import Draft
from sprinter.gates.verifier import Verifier


class Ahead:
    """A verifier whose scores come with the proposals: goes together with a `ChunkDrafter` of the same verifier."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self.needs = verifier.needs

    def score(self, draft: Draft) -> float:
        """See `Scorer.score`."""
        score = draft.proposals[-1].score
        assert score is not None, "build.py gives the drafter this verifier"
        return score
