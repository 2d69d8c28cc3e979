"""Facts about rows of logits, for whoever has no pass that finds them on its way."""

from __future__ import annotations

import numpy as np

from sprinter.core.rows import FloatArray
from sprinter.native import rows

_LEAST = -100.0  # of a logit less the largest: e^-100 is as good as nothing, and 0 * -inf is no number


def facts_of(logits: FloatArray) -> FloatArray:
    """What `Facts.table` says of finite `logits` [..., width], float64 [..., 4]."""
    if (found := rows.facts(logits)) is not None:
        return found
    table = np.empty((*logits.shape[:-1], 4))
    best = logits.argmax(axis=-1)
    peak = np.take_along_axis(logits, best[..., None], -1).astype(np.float64)  # [..., 1]
    shifted = np.maximum(logits - peak, _LEAST)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    log_total = np.log(total)
    table[..., 0] = best
    table[..., 1] = peak[..., 0] + log_total
    table[..., 2] = log_total - (weights * shifted).sum(axis=-1) / total
    table[..., 3] = np.partition(logits, -2, axis=-1)[..., -2] if logits.shape[-1] > 1 else -np.inf
    return table
