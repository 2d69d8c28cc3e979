"""A seeded tabular model whose laws are known exactly: for tests, docs and theory, with nothing to download."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from sprinter.core.records import FloatArray, IntArray
from sprinter.models.base import Capabilities, ModelInfo, ModelOutput, check_finite, check_request

LogitsOf = Callable[[tuple[int, ...]], FloatArray]


class ToyModel:
    """A language model whose logits are any function of the context; float64 throughout.

    Build one with `ToyModel.random` (a fresh random row for every context of `order` tokens) or `near`
    (the same model, perturbed: a draft for it).
    """

    capabilities = Capabilities(full_probs=True, hidden=True, embedding=True)

    def __init__(self, logits_of: LogitsOf, vocab_size: int, name: str = "toy", context_length: int = 4096) -> None:
        self._logits_of = logits_of
        self.head_tokens: IntArray | None = None
        fingerprint = hashlib.sha256(f"{name} {vocab_size}".encode()).hexdigest()
        self.info = ModelInfo(
            name=name,
            vocab_size=vocab_size,
            context_length=context_length,
            hidden_size=vocab_size,
            num_layers=1,
            num_parameters=vocab_size * vocab_size,
            bytes_per_step=8 * vocab_size,
            fingerprint=fingerprint,
            backend="toy",
            weights="float64",
        )
        self._cached: list[int] = []

    @classmethod
    def random(cls, vocab_size: int, seed: int, order: int = 1, spread: float = 1.5) -> ToyModel:
        """Logits drawn once from N(0, spread^2) for every context of the last `order` tokens."""
        return cls(_random_logits(vocab_size, seed, order, spread), vocab_size, f"toy-{vocab_size}-{seed}-{order}")

    def near(self, seed: int, noise: float = 0.7, order: int = 1) -> ToyModel:
        """A draft for this model: its logits plus N(0, noise^2), drawn once per context."""
        own, vocab_size = self._logits_of, self.info.vocab_size
        wobble = _random_logits(vocab_size, seed, order, noise)
        return ToyModel(lambda c: own(c) + wobble(c), vocab_size, f"{self.info.name}-near-{seed}-{noise}-{order}")

    def forward(self, tokens: Sequence[int], num_last: int) -> ModelOutput:
        check_request(self.info, tokens, num_last)
        ends = range(len(tokens) - num_last + 1, len(tokens) + 1)
        logits = np.stack([self._logits_of(tuple(tokens[:end])) for end in ends])  # [num_last, vocab]
        shared = next((i for i, (a, b) in enumerate(zip(self._cached, tokens, strict=False)) if a != b), None)
        shared = min(len(self._cached), len(tokens)) if shared is None else shared
        self._cached = list(tokens)
        check_finite(self.info.name, logits)
        return ModelOutput(logits, logits.copy(), len(tokens) - min(shared, len(tokens) - num_last))

    def embedding(self, token: int) -> FloatArray:
        row: FloatArray = np.eye(self.info.vocab_size)[token]
        return row


def _random_logits(vocab_size: int, seed: int, order: int, spread: float) -> LogitsOf:
    @lru_cache(maxsize=1 << 16)
    def row(recent: tuple[int, ...]) -> FloatArray:
        # Seeding by the context itself makes a table of any order without storing one.
        return np.random.default_rng([seed, *(t + 1 for t in recent)]).normal(0.0, spread, vocab_size)

    return lambda context: row(context[-order:] if order else ())
