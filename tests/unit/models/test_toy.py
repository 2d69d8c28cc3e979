"""The toy model's rows: trees, owners and failed passes, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprinter.core.rows import Cache, FloatArray, Part
from sprinter.errors import BackendError, ConfigError
from sprinter.models.base import facts_of
from sprinter.models.toy import ToyModel

VOCAB = 6


def whole(model: ToyModel) -> ToyModel:
    """A model like `model` whose law depends on every token of the text."""
    rows = model._logits_of
    return ToyModel(lambda c: rows((hash(c) % VOCAB,)) + rows((len(c),)), VOCAB, "whole")


MODEL = whole(ToyModel.random(VOCAB, seed=4))


def law(tokens: list[int]) -> FloatArray:
    return MODEL._logits_of(tuple(tokens))


def filled(tokens: list[int]) -> Cache:
    cache = MODEL.open()
    MODEL.forward([Part(cache, tokens, 0)])
    return cache


def trees(earlier: int = 0) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Rows of (token, parent), parents among the rows before and `earlier` ones."""
    return st.lists(st.tuples(st.integers(0, VOCAB - 1), st.integers(0, 99)), min_size=1, max_size=7).map(
        lambda rows: [(token, parent % (earlier + i + 1) - 1) for i, (token, parent) in enumerate(rows)]
    )


@given(line=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5), rows=trees(), data=st.data())
def test_a_tree_says_what_its_paths_say_one_by_one_and_keeps_any_of_them(
    line: list[int], rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    cache = filled(line)
    more = data.draw(trees(len(rows)), label="more")
    paths: list[list[int]] = []
    for part in (rows, more):
        tokens, parents = (list(column) for column in zip(*part, strict=True))
        (views,) = MODEL.forward([Part(cache, tokens, len(tokens), parents)])
        for row, parent in enumerate(parents):
            paths.append([*(paths[parent] if parent >= 0 else []), len(paths)])
            spelled = [(rows + more)[place][0] for place in paths[-1]]
            assert (views.logits[row] == law([*line, *spelled])).all()
    assert cache.length == len(line)
    path = data.draw(st.sampled_from([[], *paths]), label="path")
    cache.keep(path)
    kept = line + [(rows + more)[place][0] for place in path]
    assert cache.length == len(kept)
    twin = cache.fork()
    (view,) = MODEL.forward([Part(cache, [2], 1)])
    assert (view.logits[0] == law([*kept, 2])).all()
    cut = data.draw(st.integers(0, len(kept)), label="cut")
    cache.truncate(cut)
    ours, theirs = MODEL.forward([Part(cache, [3], 1), Part(twin, [1, 4], 2)])
    assert (ours.logits[0] == law([*kept[:cut], 3])).all()
    assert (theirs.logits == np.stack([law([*kept, 1]), law([*kept, 1, 4])])).all()


def test_many_owners_of_one_pass_keep_their_texts_apart() -> None:
    texts = [[1, 2, 3], [4], [5, 0], [1, 2]]
    caches = [filled(text) for text in texts]
    views = MODEL.forward([Part(cache, [i, 5], i % 3) for i, cache in enumerate(caches)])
    for i, (text, view) in enumerate(zip(texts, views, strict=True)):
        wanted = [[*text, i], [*text, i, 5]][2 - i % 3 :]
        assert view.logits.shape == view.hidden.shape == (i % 3, VOCAB)
        assert view.facts.table.shape == (i % 3, 4)
        assert all((row == law(tokens)).all() for row, tokens in zip(view.logits, wanted, strict=True))


def damaged(context: tuple[int, ...]) -> FloatArray:
    return np.full(VOCAB, np.nan) if context[-1] == 5 else law(list(context))


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda c: Part(c, [5], 1), BackendError, "NaN"),
        (lambda c: Part(c, [VOCAB], 1), BackendError, "knows the token ids 0 to 5, but was given 6"),
        (lambda c: Part(c, [-1], 1), BackendError, "given -1"),
        (lambda c: Part(c, [0] * 9, 1), ConfigError, "reads at most 10"),
        (lambda c: Part(c, [0] * 9, 1, range(-1, 8)), ConfigError, "reads at most 10"),
        (lambda c: Part(c, [], 0), ConfigError, "0 tokens"),
        (lambda c: Part(c, [1], 2), ConfigError, "2 views of 1 tokens"),
        (lambda c: Part(c, [1, 2], 1, [-1]), ConfigError, "2 tokens at 1 places"),
        (lambda c: Part(c, [1, 2], 1, [-1, 1]), ConfigError, "names row 1 as its parent"),
        (lambda c: Part(c, [1, 2], 1, [-2, 0]), ConfigError, "names row -2 as its parent"),
    ],
)
def test_a_failed_pass_changes_no_cache(bad: Callable[[Cache], Part], error: type[Exception], message: str) -> None:
    model = ToyModel(damaged, VOCAB, context_length=10)
    good, other = model.open(), model.open()
    model.forward([Part(good, [1, 2], 1), Part(other, [3, 4], 1)])
    with pytest.raises(error, match=message):
        model.forward([Part(good, [1], 1), bad(other)])
    assert (good.length, other.length) == (2, 2)
    (view,) = model.forward([Part(good, [0], 1)])
    assert (view.logits[0] == law([1, 2, 0])).all()


def test_what_a_cache_cannot_do_is_refused() -> None:
    cache = filled([1, 2])
    with pytest.raises(ConfigError, match="same cache"):
        MODEL.forward([Part(cache, [1], 1), Part(cache, [2], 1)])
    MODEL.forward([Part(cache, [3, 4, 5], 1, [-1, 0, -1])])
    with pytest.raises(ConfigError, match="lengthens the line"):
        MODEL.forward([Part(cache, [1], 1)])
    with pytest.raises(ConfigError, match="loose rows"):
        cache.fork()
    for path in ([1], [0, 2], [2, 1], [0, 1, 2], [3], [-1]):
        with pytest.raises(ConfigError, match="no path"):
            cache.keep(path)
    for length in (-1, 3):
        with pytest.raises(ConfigError, match="cannot cut"):
            cache.truncate(length)
    cache.keep([0, 1])
    (view,) = MODEL.forward([Part(cache, [0], 1)])
    assert (view.logits[0] == law([1, 2, 3, 4, 0])).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_facts_are_those_of_the_plain_formulas_and_bear_banned_tokens(kind: type) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 40)).astype(kind)
    logits[1, 7:] = -np.inf
    logits[2, 1:] = -np.inf
    logits[3, [8, 30]] = 50.0
    table = facts_of(logits).table
    for row, (best, log_total, entropy, second) in zip(logits.astype(np.float64), table, strict=True):
        weights = [math.exp(x) for x in row]
        probs = [w / sum(weights) for w in weights]
        assert best == row.argmax()
        assert log_total == pytest.approx(math.log(sum(weights)), rel=1e-6)
        assert entropy == pytest.approx(-sum(p * math.log(p) for p in probs if p > 0), rel=1e-5, abs=1e-6)
        assert second == sorted(row)[-2]
    assert table.dtype == np.float64
    assert facts_of(np.zeros((2, 1))).table.tolist() == [[0, 0, 0, -np.inf]] * 2
    assert facts_of(logits[:0]).table.shape == (0, 4)
