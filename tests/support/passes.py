"""Short ways to ask a model for rows."""

from __future__ import annotations

from collections.abc import Sequence

from sprinter.core.rows import Cache, Model, Part, Views


def read(model: Model, tokens: Sequence[int], wanted: int = 1, cache: Cache | None = None) -> Views:
    """Views of the last `wanted` of `tokens`, read as a chain behind `cache` (without one, in a new cache)."""
    (views,) = model.forward([Part(model.open() if cache is None else cache, tokens, wanted)])
    return views


def filled(model: Model, tokens: Sequence[int]) -> Cache:
    """A cache that holds `tokens` in line."""
    cache = model.open()
    if tokens:
        model.forward([Part(cache, tokens, 0)])
    return cache
