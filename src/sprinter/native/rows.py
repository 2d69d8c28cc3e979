"""Operations on one row of logits or of probabilities, compiled: one pass where numpy takes several.

Each function gives None (or, where it says so, False) for rows it is not made for and where nothing is compiled; the
caller then computes with numpy, which is also the reference the tests compare with. Both agree up to rounding: sums
run in another order and the exponential is another one, so last bits differ. A certificate holds across the two, as it
bounds means over texts and not bits.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprinter.native.library import library

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]

_FLOAT32 = np.dtype(np.float32)
_INT64 = np.dtype(np.int64)
_cell: Any = ctypes.c_char.from_buffer  # typed for buffers that can be written, which not every array is
_addressof = ctypes.addressof


def operations() -> Any | None:
    """The compiled library as `library` gives it, looked for only once: rows are computed thousands of times."""
    return _found(os.environ.get("SPRINTER_NATIVE"))


@lru_cache(maxsize=2)
def _found(_setting: str | None) -> Any | None:
    return library()


def address(array: NDArray[Any]) -> int:
    """Where the first entry of `array` lies. The array must outlive the use of it."""
    try:
        return _addressof(_cell(array))  # a fifth of the time of `array.ctypes`
    except (TypeError, ValueError, BufferError):  # read-only or strided
        return int(array.ctypes.data)


def is_plain(row: FloatArray) -> bool:
    """Whether `row` is float32 without gaps and not empty, as the library reads it."""
    return row.dtype == _FLOAT32 and row.strides == (4,) and row.size > 0


def typical_floor(logits: FloatArray, log_epsilon: float, log_delta: float) -> float | None:
    """log min(epsilon, delta exp(-H)) + logsumexp of `logits` [vocab], from the logarithms of epsilon and delta."""
    if not is_plain(logits) or (compiled := operations()) is None:
        return None
    return float(compiled.sprinter_typical_floor(address(logits), len(logits), log_epsilon, log_delta))


def mass_below(probs: FloatArray, logits: FloatArray, floor: float) -> float | None:
    """Sum of `probs` [vocab] where `logits` [vocab or more] are at most `floor`."""
    if not (is_plain(probs) and is_plain(logits) and len(probs) <= len(logits)) or (compiled := operations()) is None:
        return None
    return float(compiled.sprinter_mass_below(address(probs), address(logits), len(probs), floor))


def facts(logits: FloatArray) -> FloatArray | None:
    """What is worth knowing of finite `logits` [width] or [rows, width], [4] or [rows, 4]; see `core.rows.Facts`."""
    if not _is_plain_table(logits) or (compiled := operations()) is None:
        return None
    table = np.empty((*logits.shape[:-1], 4))
    found = compiled.sprinter_facts(
        address(logits), len(table) if table.ndim == 2 else 1, logits.shape[-1], address(table)
    )
    return table if found else None


def count_above(row: FloatArray, level: float) -> int | None:
    """How many entries of `row` [width] are above `level`."""
    if not is_plain(row) or (compiled := operations()) is None:
        return None
    return int(compiled.sprinter_count_above(address(row), len(row), level))


def softmax(logits: FloatArray, temperature: float) -> FloatArray | None:
    """softmax(logits / temperature), [width]; 0 for what is less likely than e^-87 times the likeliest."""
    if not is_plain(logits) or (compiled := operations()) is None:
        return None
    probs = np.empty(len(logits), np.float32)
    compiled.sprinter_softmax(address(logits), len(logits), temperature, address(probs))
    return probs


def draw(probs: FloatArray, point: float) -> int | None:
    """The place where the distribution function of `probs` [support] reaches `point` in [0, 1) of its total."""
    if not is_plain(probs) or (compiled := operations()) is None:
        return None
    return int(compiled.sprinter_draw(address(probs), len(probs), point))


def residual(probs: FloatArray, drafted: FloatArray, ids: IntArray | None) -> FloatArray | None:
    """norm((p - q)+) of `probs` over 0 .. vocab - 1 and `drafted` over `ids`; an empty array where nothing is left."""
    if not (is_plain(probs) and is_plain(drafted) and _is_plain_ids(ids)) or (compiled := operations()) is None:
        return None
    left = np.empty(len(probs), np.float32)
    at_ids = None if ids is None else address(ids)
    some = compiled.sprinter_residual(address(probs), len(probs), address(drafted), at_ids, len(drafted), address(left))
    return left if some else left[:0]


def _is_plain_table(table: FloatArray) -> bool:
    return table.dtype == _FLOAT32 and table.ndim <= 2 and table.flags.c_contiguous and table.size > 0


def _is_plain_ids(ids: IntArray | None) -> bool:
    return ids is None or (ids.dtype == _INT64 and ids.strides == (8,))
