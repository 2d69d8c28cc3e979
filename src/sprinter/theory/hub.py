"""How often at least one of several drafted tokens is accepted, from the two laws alone: per place, no sampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def hub_acceptance(p: Array, q: Array, branches: int = 2) -> float:
    """p(H) + sum outside H of min(p, q / (1 - q(H))), H the `branches` - 1 likeliest tokens of q.

    SpecHub, arXiv:2411.05289, in closed form; `p`, `q` [vocab] are the target's law and the draft's.
    """
    hubs = np.argsort(-q, kind="stable")[: branches - 1]
    outside = np.ones(len(q), bool)
    outside[hubs] = False
    rest = float(q[outside].sum())
    drawn = np.minimum(p[outside], q[outside] / rest).sum() if rest > 0 else 0.0
    return float(p[hubs].sum() + drawn)


def rrs_acceptance(p: Array, q: Array, branches: int = 2) -> float:
    """Of recursive rejection with independent draws from q: each is tested against what the ones before left of p."""
    left, refused = p, 1.0
    for _ in range(branches):
        accepted = float(np.minimum(left, q).sum())
        refused *= 1 - accepted
        excess = np.maximum(left - q, 0)
        if refused <= 0 or not excess.any():
            break
        left = excess / excess.sum()
    return 1 - refused


def rrsw_acceptance(p: Array, q: Array, branches: int = 2) -> float:
    """Of recursive rejection of two draws from q without replacement (`branches` is 2)."""
    assert branches == 2, "the sum over orders is only written for two draws"
    alpha = float(np.minimum(p, q).sum())
    if alpha >= 1:
        return 1.0
    left = np.maximum(p - q, 0) / (1 - alpha)  # [vocab]
    lost = np.maximum(q - p, 0)
    gain = 0.0
    for token in np.flatnonzero(lost > 0):
        second = q / (1 - q[token]) if q[token] < 1 else np.zeros_like(q)
        both = np.minimum(left, second)
        gain += float(lost[token]) * float(both.sum() - both[token])
    return alpha + gain
