"""Facts about rows and the count of larger entries, compiled, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sprinter.models.base import facts_of
from sprinter.native import rows
from sprinter.native.library import library

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler or no AVX2 here")


@pytest.mark.parametrize("width", [1, 2, 7, 33, 4096, 4097, 9001])
def test_compiled_facts_are_numpys(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(width).normal(0, 4, (5, width)).astype(np.float32)
    logits[1, : width // 2] = -np.inf  # banned tokens
    logits[2] = np.round(logits[2])  # ties
    logits[3, [0, -1]] = 40.0
    compiled = rows.facts(logits)
    assert compiled is not None
    monkeypatch.setenv("SPRINTER_NATIVE", "0")
    assert rows.facts(logits) is None
    expected = facts_of(logits).table
    assert (compiled[:, [0, 3]] == expected[:, [0, 3]]).all()
    np.testing.assert_allclose(compiled[:, 1:3], expected[:, 1:3], atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_have_no_compiled_facts(value: float) -> None:
    logits = np.zeros((2, 50), np.float32)
    logits[1, 49] = value
    assert rows.facts(logits) is None
    assert rows.facts(np.full((1, 9), -np.inf, np.float32)) is None


def test_numbers_the_library_cannot_read_have_no_compiled_facts() -> None:
    table = np.zeros((3, 8), np.float32)
    assert rows.facts(table[:, ::2]) is None
    assert rows.facts(table[:0]) is None
    assert rows.facts(table.astype(np.float64)) is None
    assert rows.count_above(table[0].astype(np.float64), 0.0) is None


@pytest.mark.parametrize("width", [1, 8, 31, 4099])
def test_the_count_of_larger_entries_is_numpys(width: int) -> None:
    row = np.round(np.random.default_rng(width).normal(0, 3, width)).astype(np.float32)
    row[width // 2] = -np.inf
    for level in (-np.inf, -1.0, 0.0, float(row.max()), np.inf):
        assert rows.count_above(row, level) == np.count_nonzero(row > level)
