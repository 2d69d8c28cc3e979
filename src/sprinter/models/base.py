"""The protocol every model is behind, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sprinter.core.records import FloatArray, IntArray, RowFacts
from sprinter.errors import BackendError, ConfigError


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend gives, or what a rule, gate or drafter needs; compared before weights load."""

    full_probs: bool = True
    hidden: bool = False
    embedding: bool = False

    def missing(self, needed: Capabilities) -> list[str]:
        """Names of the capabilities in `needed` that are absent here."""
        return [name for name in self.__slots__ if getattr(needed, name) and not getattr(self, name)]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is worth knowing of a model besides its outputs.

    `num_parameters` counts what one token's forward pass multiplies with (embedding lookups excluded, head
    included); `num_layers` and `hidden_size` give the attention term of the FLOP count.
    """

    name: str
    vocab_size: int  # ids a law may name: 0 .. vocab_size - 1
    context_length: int  # tokens
    hidden_size: int
    num_layers: int
    num_parameters: int
    bytes_per_step: int  # weight bytes read for one token
    fingerprint: str  # sha256 hex of the weights, the same for every backend
    backend: str  # "hf", "fast", "fast-compiled", "toy"
    weights: str  # "float32", "bfloat16", "int8", "int4", "float64"
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """Next-token logits and hidden states for the last positions of a forward pass.

    `logits` is over `LanguageModel.head_tokens` where a model's head covers only part of the vocabulary.
    `hidden` is what the output head reads: the last hidden state after the final norm.
    """

    logits: FloatArray  # [num_last, width]
    hidden: FloatArray | None  # [num_last, hidden]
    num_computed: int = 0  # tokens this call computed; the others came from the cache
    facts: RowFacts | None = None  # about `logits`, where the backend has them


class LanguageModel(Protocol):
    """A causal language model with a cache of its own, for one sequence at a time."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def head_tokens(self) -> IntArray | None:
        """Ascending token ids the head covers, [width]; None when it covers 0 .. width - 1."""

    def forward(self, tokens: Sequence[int], num_last: int) -> ModelOutput:
        """Logits after each of the last `num_last` tokens of `tokens`, given all before.

            tokens    a b c d e      num_last = 2
            row 0           d -> law of the token after "a b c d"
            row 1             e -> law of the token after "a b c d e"

        The longest prefix of `tokens` already in the cache is not computed again, and whatever the
        cache holds beyond it is dropped. Raises BackendError on non-finite logits, ConfigError when
        `tokens` do not fit into the context window.
        """

    def embedding(self, token: int) -> FloatArray:
        """The input embedding of `token`, [hidden]."""


def common_prefix(cached: Sequence[int], tokens: Sequence[int]) -> int:
    """Length of the longest common prefix.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    limit = min(len(cached), len(tokens))
    # Nearly always the cache is a prefix of the request, and a list comparison settles that in C.
    # (At most one of the two is copied: this runs for every token, and contexts grow long.)
    if (cached if limit == len(cached) else cached[:limit]) == (tokens if limit == len(tokens) else tokens[:limit]):
        return limit
    return next(i for i in range(limit) if cached[i] != tokens[i])


def check_request(info: ModelInfo, tokens: Sequence[int], num_last: int) -> None:
    """Raise ConfigError for a request no backend can serve."""
    if not 1 <= num_last <= len(tokens):
        raise ConfigError(f"asked {info.name} for {num_last} rows of a sequence of {len(tokens)} tokens")
    if len(tokens) > info.context_length:
        raise ConfigError(
            f"the sequence has {len(tokens)} tokens, but {info.name} reads at most {info.context_length}: "
            "shorten the prompt or lower --max-new-tokens"
        )


def is_finite(logits: FloatArray) -> bool:
    """Whether every row of `logits` [rows, width] has a largest entry and it is finite: no NaN, no +inf."""
    # max() hands NaN on and -inf (a banned token) does not disturb it, so one pass is enough.
    return bool(np.isfinite(logits.max(axis=-1)).all())


def not_finite(name: str) -> BackendError:
    """What to raise when model `name` computed logits that are not finite."""
    return BackendError(
        f"{name} computed NaN or infinite logits: its weights are damaged or its number format overflows "
        "(try --weights float32)"
    )


def check_finite(name: str, logits: FloatArray) -> FloatArray:
    """Return `logits`, or raise BackendError naming the model if a row holds NaN or +inf."""
    if not is_finite(logits):
        raise not_finite(name)
    return logits
