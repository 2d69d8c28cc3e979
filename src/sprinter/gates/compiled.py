"""The verifier's network in one call of the compiled library, from features to the calibrated number.

What a token's embedding adds to the first layer is computed once per token and kept. The sums run in another order
than numpy's, so scores agree up to float32 rounding and not in their last bits. A certificate may be used with either:
what it bounds is a mean over texts, and only a score that equals the threshold up to rounding falls on the other side
of it. Both levels of the library give the same bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from sprinter.core.rows import FloatArray
from sprinter.core.tree import Proposal
from sprinter.gates.features import SCALARS, columns_of
from sprinter.native.rows import address, is_plain, operations

_LANES = 8  # rows and columns of every matrix are filled up to a multiple of this

Layers = Sequence[tuple[FloatArray, FloatArray]]


class _Dense(ctypes.Structure):
    """One layer, as native_score.h declares it."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    )


class _Scorer(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.c_void_p),
        ("num_layers", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("knots", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("num_knots", ctypes.c_int64),
    )


class CompiledScore:
    """f(x, s) of one output of a verifier; what a token's embedding adds is computed once per token and kept."""

    def __init__(
        self, features: Sequence[str], layers: Layers, curve: tuple[FloatArray, FloatArray] | None, library: Any
    ) -> None:
        """`layers`: (weight [out, in], bias [out]), the last with one row; `curve`: knots and values, float64."""
        own, embedding, self._hidden = _split(features, layers[0][0])
        self._call, self._dense = library.sprinter_score, library.sprinter_dense
        self._kept: list[FloatArray] = []  # the library reads their memory
        parts = [self._layer(weight, bias) for weight, bias in [(own, layers[0][1]), *layers[1:]]]
        self._layers = (_Dense * len(parts))(*parts)
        self._embedding = None if embedding is None else self._layer(embedding, layers[0][1])
        knots, values = (np.zeros(0), np.zeros(0)) if curve is None else (np.ascontiguousarray(c) for c in curve)
        self._kept += [knots, values]
        at = (knots.ctypes.data, values.ctypes.data)
        self._scorer = _Scorer(ctypes.addressof(self._layers), len(parts), self._hidden, *at, len(knots))
        self._view = ctypes.addressof(self._scorer)
        self._known: dict[int, int] = {}  # token -> address of [out]; at most one entry per token of the vocabulary

    def score(self, proposal: Proposal, numbers: FloatArray) -> float | None:
        """The score of a drafted token with scalar features `numbers`; None if the library cannot read its vectors."""
        known = hidden = None
        if self._embedding is not None:
            known = self._known.get(proposal.token) or self._learn(proposal)
        if self._hidden:
            assert proposal.hidden is not None, "needs are compared before any model runs"
            if not is_plain(proposal.hidden) or len(proposal.hidden) != self._hidden:
                return None
            hidden = address(proposal.hidden)
        found: float = self._call(self._view, hidden, known, address(numbers))
        return found

    def _layer(self, weight: FloatArray, bias: FloatArray) -> _Dense:
        """A layer filled up with zeros; it points into arrays kept here."""
        rows, columns = (-(-size // _LANES) * _LANES for size in weight.shape)
        filled, start = np.zeros((rows, columns), np.float32), np.zeros(rows, np.float32)
        filled[: weight.shape[0], : weight.shape[1]] = weight
        start[: len(bias)] = bias
        self._kept += [filled, start]
        return _Dense(filled.ctypes.data, start.ctypes.data, rows, columns)

    def _learn(self, proposal: Proposal) -> int:
        """Compute and keep what the token adds to the first layer; where it lies."""
        assert proposal.embed is not None and self._embedding is not None, "needs are compared before any model runs"
        embedding = proposal.embed(proposal.token)  # [hidden]
        filled = np.zeros(self._embedding.columns, np.float32)
        filled[: len(embedding)] = embedding
        known = np.zeros(self._embedding.rows, np.float32)
        self._dense(ctypes.byref(self._embedding), filled.ctypes.data, known.ctypes.data)
        self._kept.append(known)
        self._known[proposal.token] = known.ctypes.data
        return self._known[proposal.token]


def compiled_score(
    features: Sequence[str], layers: Layers, curve: tuple[FloatArray, FloatArray] | None
) -> CompiledScore | None:
    """See `CompiledScore`; None where nothing is compiled."""
    library = operations()
    return None if library is None else CompiledScore(features, layers, curve, library)


def _split(features: Sequence[str], weight: FloatArray) -> tuple[FloatArray, FloatArray | None, int]:
    """Columns of `weight` [out, inputs] for hidden and all scalars in their order, for the embedding; hidden's size.

    A scalar the verifier does not read has a column of zeros.
    """
    columns = {name: weight[:, where] for name, where in columns_of(features, weight.shape[1]).items()}
    nothing = np.zeros((len(weight), 1), np.float32)
    hidden = [columns["hidden"]] if "hidden" in columns else []
    own = np.concatenate([*hidden, *(columns.get(name, nothing) for name in SCALARS)], axis=1)
    return own, columns.get("embedding"), hidden[0].shape[1] if hidden else 0
