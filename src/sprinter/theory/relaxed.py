"""What testing siblings one by one makes of the target's law: why the rule `relaxed` is not exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sprinter.core.rows import FloatArray


def relaxed_law(p: FloatArray, drafted: Sequence[tuple[int, float]], own: FloatArray) -> FloatArray:
    """The law [vocab] of the next token where `drafted` siblings (token, likelihood w) have no children.

    Each passes with probability min(1, p(x) / w); the first that does stands, and where none does the target's own
    choice, of law `own` [vocab]: p itself when sampled, one token when greedy. The stochastic mode of the code of
    graph-structured speculative decoding, arXiv:2407.16207.
    """
    law, left = np.zeros(len(p)), 1.0
    for token, likelihood in drafted:
        passes = min(1.0, float(p[token]) / likelihood)
        law[token] += left * passes
        left *= 1 - passes
    made: FloatArray = law + left * own
    return made


def relaxed_distance(p: FloatArray, drafted: Sequence[tuple[int, float]], own: FloatArray) -> float:
    """Total variation between `relaxed_law` and `own`, the law the text should have."""
    return float(np.abs(relaxed_law(p, drafted, own) - own).sum() / 2)
