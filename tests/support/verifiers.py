"""Verifiers of random weights: no training, any features."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from sprinter.gates.features import SCALARS, VECTORS
from sprinter.gates.verifier import Verifier, VerifierRecord

ALL_FEATURES = (*VECTORS, *SCALARS)
CURVE = {"knots": [0.1, 0.3, 0.5, 0.7], "values": [0.2, 0.2, 0.6, 0.9]}  # with flat pieces, as isotonic fits have


def random_verifier(
    hidden_size: int,
    features: tuple[str, ...] = ALL_FEATURES,
    seed: int = 0,
    width: int | None = 16,
    curve: dict[str, Any] | None = None,
) -> Verifier:
    """One hidden layer of `width` (None: a linear head), scores spread around a half."""
    rng = np.random.default_rng(seed)
    sizes = [sum(hidden_size if f in VECTORS else 1 for f in features), *([] if width is None else [width]), 1]
    layers = [
        (rng.normal(0, 1 / np.sqrt(i), (o, i)).astype(np.float32), rng.normal(0, 0.3, o).astype(np.float32))
        for i, o in pairwise(sizes)
    ]
    record = VerifierRecord(
        features=features,
        outputs=("accept",),
        num_layers=len(layers),
        draft_fingerprint="draft",
        target_fingerprint="target",
        transforms=(),
        default_threshold=0.5,
        weights_sha256=f"{seed}",
        calibration={} if curve is None else {"accept": curve},
    )
    return Verifier(layers, record, "accept")
