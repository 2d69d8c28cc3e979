"""The protocol every model is behind: weights that open caches, and one ragged pass over rows of many texts.

A pass is a list of `Part`s, one per text, each a few tokens with their parent rows: chains, trees and batches are the
same call. Positions and masks follow from the parents.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a drafter, gate, rule or observer needs of a model, or what a model gives; compared before weights load."""

    full_laws: bool = False  # every entry of a law, not only the likeliest few
    hidden: bool = False  # the last hidden state behind each law
    embedding: bool = False  # input embeddings of single tokens
    trees: bool = False  # rows with parents that branch
    caches: bool = False  # more than one cache at a time
    blocks: bool = False  # the model with attention or MLP blocks left out

    def missing(self, needed: Needs) -> list[str]:
        """Names of what `needed` asks for and is not here."""
        return [name for name in self.__slots__ if getattr(needed, name) and not getattr(self, name)]

    def __or__(self, other: Needs) -> Needs:
        return Needs(*(getattr(self, name) or getattr(other, name) for name in self.__slots__))


EVERYTHING = Needs(full_laws=True, hidden=True, embedding=True, trees=True, caches=True, blocks=True)


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


class Cache(Protocol):
    """One text's memory in one model: the rows whose keys and values it holds.

        length = 3                      a pass with parents [-1, 0, 0]          keep([0, 2])

        t0 - t1 - t2                    t0 - t1 - t2 - 0 - 1                    t0 - t1 - t2 - 0 - 2
                                                         \\ 2                    length = 5

    Rows in line, a chain from the text's first token on, are counted by `length`. A part without parents lengthens the
    line. Rows of parts with parents lie loose behind it, numbered from 0, until `keep` or `truncate`.
    """

    @property
    def length(self) -> int: ...

    def keep(self, path: Sequence[int]) -> None:
        """Let the loose rows `path`, each the parent of the next and the first behind the line, lengthen the line.

        All other loose rows are dropped; an empty path drops them all.
        """

    def truncate(self, length: int) -> None:
        """Drop all loose rows and what stands in line behind the first `length` rows."""

    def fork(self) -> Cache:
        """A cache of its own with the same rows in line; nothing may be loose."""


@dataclass(slots=True)
class Part:
    """The rows of one text in a pass.

        tokens   a b c d        parents None        a chain behind the line
                                parents -1 0 0 2    a behind the line; b and c behind a; d behind c

    `parents` number loose rows of the cache: those of earlier passes first, then this part's own; -1 is the end of the
    line. A row sees the line, its ancestors and itself; its position is one more than its parent's.
    """

    cache: Cache
    tokens: Sequence[int]
    wanted: int  # views of so many of the last rows are asked for, 0 or more
    parents: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a pass found out about its rows of logits while they lay in the processor's caches."""

    table: FloatArray  # [rows, 4] float64: place of the largest logit, logsumexp, entropy (nats), second largest logit

    def best(self, row: int) -> int:
        """Place of the largest logit, the first of equal ones."""
        return int(self.table[row, 0])

    def log_total(self, row: int) -> float:
        """log sum exp of the logits."""
        return float(self.table[row, 1])

    def entropy(self, row: int) -> float:
        """Entropy of softmax(logits), nats."""
        return float(self.table[row, 2])

    def second(self, row: int) -> float:
        """The second largest logit, the largest again where two entries share it; -inf where there is only one."""
        return float(self.table[row, 3])


@dataclass(frozen=True, slots=True)
class Views:
    """What a model says at the wanted rows of one part.

    `hidden` is what the output head reads: the last hidden state after the final norm.
    """

    logits: FloatArray  # [wanted, width], before any sampling transform
    hidden: FloatArray | None  # [wanted, hidden]
    facts: Facts  # of each row of logits


class Model(Protocol):
    """A causal language model's weights. All state of a text is in the caches it opens; any number may be open."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def gives(self) -> Needs: ...

    @property
    def head_tokens(self) -> IntArray | None:
        """Ascending token ids the head covers, [width]; None when it covers 0 .. width - 1."""

    def open(self) -> Cache:
        """A new, empty cache."""

    def forward(self, parts: Sequence[Part]) -> list[Views]:
        """Run the rows of all parts in one pass; the views of each part, in order.

        The parts' caches are different ones, and hold the new rows afterwards. Raises ConfigError for a part that does
        not fit into the context window, BackendError for an unknown token id or logits that are not finite; then no
        cache has changed.
        """

    def embedding(self, token: int) -> FloatArray:
        """The input embedding of `token`, [hidden]."""

    def without(self, left_out: Collection[int]) -> Model:
        """The model with blocks left out, on the same weights, with caches of its own.

        Block 2 i is the attention of layer i, block 2 i + 1 its MLP; one left out adds nothing to the residual stream.
        Raises ConfigError for a block of the first or last layer, or of none.
        """
