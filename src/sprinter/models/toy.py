"""A seeded tabular model whose laws are known exactly: for tests, docs and theory, with nothing to download."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

import numpy as np

from sprinter.core.rows import EVERYTHING, FloatArray, IntArray, ModelInfo, Part, Views
from sprinter.errors import ConfigError
from sprinter.models.base import (
    Line,
    ancestors,
    check_blocks,
    check_distinct,
    check_finite,
    check_part,
    facts_of,
    thinner,
)

LogitsOf = Callable[[tuple[int, ...]], FloatArray]
_BLOCK_SPREAD = 0.5  # standard deviation of what a block adds to a logit


class ToyCache(Line):
    """The tokens of one text, those of loose rows with their parents."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        super().__init__(len(tokens))
        self.tokens = list(tokens)  # in line first, then loose

    def keep(self, path: Sequence[int]) -> None:
        self.check_path(path)
        self.tokens[self.length :] = [self.tokens[self.length + row] for row in path]
        self.settle(len(path))

    def truncate(self, length: int) -> None:
        self.cut(length)
        del self.tokens[length:]

    def fork(self) -> ToyCache:
        self.check_fork()
        return ToyCache(self.tokens)

    def contexts(self, part: Part) -> list[tuple[int, ...]]:
        """The texts that end with the wanted rows of `part`, which the cache does not hold yet."""
        tokens = (*self.tokens, *part.tokens)
        ends = range(len(tokens) - part.wanted, len(tokens))
        if part.parents is None:
            return [tokens[: end + 1] for end in ends]
        line, parents = tokens[: self.length], [*self.parents, *part.parents]
        paths = [ancestors(parents, end - self.length) for end in ends]
        return [(*line, *(tokens[self.length + row] for row in path)) for path in paths]


class ToyModel:
    """A language model whose logits are any function of the context; float64 throughout.

    Build one with `ToyModel.random` (a fresh random row for every context of `order` tokens) or `near`
    (the same model, perturbed: a draft for it).
    """

    gives = EVERYTHING

    def __init__(
        self,
        logits_of: LogitsOf,
        vocab_size: int,
        name: str = "toy",
        context_length: int = 4096,
        num_layers: int = 1,
    ) -> None:
        self._logits_of = logits_of
        self.head_tokens: IntArray | None = None
        fingerprint = hashlib.sha256(f"{name} {vocab_size}".encode()).hexdigest()
        self.info = ModelInfo(
            name=name,
            vocab_size=vocab_size,
            context_length=context_length,
            hidden_size=vocab_size,
            num_layers=num_layers,
            num_parameters=vocab_size * vocab_size,
            bytes_per_step=8 * vocab_size,
            fingerprint=fingerprint,
            backend="toy",
            weights="float64",
        )

    @classmethod
    def random(cls, vocab_size: int, seed: int, order: int = 1, spread: float = 1.5, num_layers: int = 1) -> ToyModel:
        """Logits drawn once from N(0, spread^2) for every context of the last `order` tokens."""
        name = f"toy-{vocab_size}-{seed}-{order}"
        return cls(_random_logits(vocab_size, seed, order, spread), vocab_size, name, num_layers=num_layers)

    def near(self, seed: int, noise: float = 0.7, order: int = 1) -> ToyModel:
        """A draft for this model: its logits plus N(0, noise^2), drawn once per context."""
        own, vocab_size = self._logits_of, self.info.vocab_size
        wobble = _random_logits(vocab_size, seed, order, noise)
        return ToyModel(lambda c: own(c) + wobble(c), vocab_size, f"{self.info.name}-near-{seed}-{noise}-{order}")

    def without(self, left_out: Collection[int]) -> ToyModel:
        """As the protocol says; what a block adds to the logits is drawn once per token from N(0, 0.5^2)."""
        own, size = self._logits_of, self.info.vocab_size
        check_blocks(self.info, left_out)
        info = thinner(self.info, left_out, 0)
        blocks = [_random_logits(size, block, 1, _BLOCK_SPREAD) for block in sorted(left_out)]
        view = ToyModel(lambda c: own(c) - sum(block(c) for block in blocks), size, info.name)
        view.info = info
        return view

    def open(self) -> ToyCache:
        return ToyCache()

    def forward(self, parts: Sequence[Part]) -> list[Views]:
        """As the protocol says; the hidden state of a row is its logits."""
        check_distinct(parts)
        caches = [self._own(part) for part in parts]
        positions = [cache.positions_of(part) for cache, part in zip(caches, parts, strict=True)]
        for part, places in zip(parts, positions, strict=True):
            check_part(self.info, part, places)
        views = [self._view(cache.contexts(part)) for cache, part in zip(caches, parts, strict=True)]
        # Only now, as a part that fails must leave the caches of all others as they were.
        for cache, part, places in zip(caches, parts, positions, strict=True):
            cache.add(part, places)
            cache.tokens.extend(part.tokens)
        return views

    def _own(self, part: Part) -> ToyCache:
        if not isinstance(part.cache, ToyCache):
            raise ConfigError(f"{self.info.name} was given the cache of another model")
        return part.cache

    def _view(self, contexts: list[tuple[int, ...]]) -> Views:
        logits = np.empty((len(contexts), self.info.vocab_size))  # [wanted, vocab]
        for row, context in zip(logits, contexts, strict=True):
            row[:] = self._logits_of(context)
        check_finite(self.info.name, logits)
        return Views(logits, logits.copy(), facts_of(logits))

    def embedding(self, token: int) -> FloatArray:
        row: FloatArray = np.eye(self.info.vocab_size)[token]
        return row


def _random_logits(vocab_size: int, seed: int, order: int, spread: float) -> LogitsOf:
    @lru_cache(maxsize=1 << 16)
    def row(recent: tuple[int, ...]) -> FloatArray:
        # Seeding by the context itself makes a table of any order without storing one.
        return np.random.default_rng([seed, *(t + 1 for t in recent)]).normal(0.0, spread, vocab_size)

    return lambda context: row(context[-order:] if order else ())
