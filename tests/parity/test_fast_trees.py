"""A tree read in one pass against its paths read token by token, for every architecture the fast backend runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sprinter.core.rows import Part, Views
from sprinter.models.fast.model import FastModel
from sprinter.native import library as native
from tests.parity.test_fast_vs_hf import CASES, TOKENS, VOCAB, save_reference
from tests.support.passes import filled, read


def path_to(parents: Sequence[int], row: int) -> list[int]:
    """The rows from the line's end to `row`."""
    return [] if row < 0 else [*path_to(parents, parents[row]), row]


def assert_same(found: Views, row: int, expected: Views, compiled: bool) -> None:
    """That a row of `found` is the only one of `expected`: the same bits where the pass is compiled."""
    assert found.hidden is not None
    assert expected.hidden is not None
    tables = (
        (found.logits, expected.logits),
        (found.hidden, expected.hidden),
        (found.facts.table, expected.facts.table),
    )
    for table, alone in tables[: 3 if compiled else 2]:
        assert np.abs(table[row] - alone[0]).max() <= (0.0 if compiled else 1e-4)


def load(folder: Path, case: str, weights: str) -> FastModel:
    save_reference(folder, case)
    model = FastModel.load(folder, weights, cache=folder)
    assert model.compiled == (weights != "float32")
    return model


@pytest.fixture(params=["float32", "int8", "int4"])
def weights(request: pytest.FixtureRequest) -> str:
    if request.param != "float32" and native.library() is None:
        pytest.skip("no C++ compiler or no AVX2 here")
    return str(request.param)


@pytest.mark.parametrize("case", CASES)
def test_a_tree_equals_its_paths_read_one_by_one(case: str, weights: str, tmp_path: Path) -> None:
    model, rng = load(tmp_path, case, weights), np.random.default_rng(0)
    for prefix in ([], TOKENS[:1], TOKENS):
        cache, tokens, parents = filled(model, prefix), [], []
        for num_new in (1, 7, 5):  # passes that add to the tree
            new = rng.integers(0, VOCAB, num_new).tolist()
            hung = [int(rng.integers(-1, len(parents) + i)) for i in range(num_new)]
            (views,) = model.forward([Part(cache, new, num_new, hung)])
            tokens, parents = tokens + new, parents + hung
            assert cache.length == len(prefix)
            for row in range(num_new):
                alone, path = filled(model, prefix), path_to(parents, len(parents) - num_new + row)
                for node in path:
                    expected = read(model, [tokens[node]], 1, alone)
                assert_same(views, row, expected, model.compiled)


@pytest.mark.parametrize("case", ["llama", "llama-no-gqa", "mistral", "qwen2", "qwen3"])
def test_what_follows_keep_truncate_and_fork_equals_the_text_read_alone(
    case: str, weights: str, tmp_path: Path
) -> None:
    model, rng = load(tmp_path, case, weights), np.random.default_rng(1)
    text = list(TOKENS[:6])
    cache = filled(model, text)
    for _ in range(8):
        parents = [int(rng.integers(-1, i)) for i in range(9)]
        tokens = rng.integers(0, VOCAB, 9).tolist()
        model.forward([Part(cache, tokens, 0, parents)])
        path = path_to(parents, int(rng.integers(-1, 9)))
        cache.keep(path)
        text += [tokens[node] for node in path]
        if rng.random() < 0.5:
            model.forward([Part(cache, tokens[:4], 0, [-1, -1, 0, 1])])
            length = len(text) - int(rng.integers(0, 4))
            cache.truncate(length)
            text = text[:length]
        twin, new = cache.fork(), rng.integers(0, VOCAB, 2).tolist()
        read(model, [5, 6, 7], 1, twin)  # what one writes the other does not see
        assert_same(read(model, new, 1, cache), 0, read(model, [*text, *new]), model.compiled)
        assert_same(read(model, new, 1, twin), 0, read(model, [*text, 5, 6, 7, *new]), model.compiled)
        text += new
        assert (cache.length, twin.length) == (len(text), len(text) + 3)


@pytest.mark.parametrize("trunk", [1, 300, 600])
def test_a_trunk_that_begins_the_tree_is_read_as_a_chain(trunk: int, weights: str, tmp_path: Path) -> None:
    CASES["wide"] = ("Llama", {"max_position_embeddings": 700})
    try:
        model = load(tmp_path, "wide", weights)
    finally:
        del CASES["wide"]
    tokens = np.random.default_rng(trunk).integers(0, VOCAB, trunk + 4).tolist()
    parents = [*range(-1, trunk - 1), trunk - 1, trunk - 1, trunk, trunk + 1]
    cache = filled(model, TOKENS)
    (views,) = model.forward([Part(cache, tokens, 5, parents)])  # more rows than are computed at once
    for row, branch in enumerate(([], [0], [1], [0, 2], [1, 3])):
        whole = [*TOKENS, *tokens[:trunk], *(tokens[trunk + node] for node in branch)]
        assert_same(views, row, read(model, whole), model.compiled)
    cache.keep([*range(trunk), trunk + 1, trunk + 3])
    expected = read(model, [*TOKENS, *tokens[:trunk], tokens[trunk + 1], tokens[trunk + 3], 9])
    assert_same(read(model, [9], 1, cache), 0, expected, model.compiled)


def test_several_trees_in_one_pass_equal_each_alone_in_torch_up_to_rounding(tmp_path: Path) -> None:
    model = load(tmp_path, "llama", "float32")
    shapes = [(TOKENS, [-1, 0, 0, 1]), (TOKENS[:3], [-1, -1]), (TOKENS[:9], None), ([], [-1, 0, -1])]
    caches = [filled(model, prefix) for prefix, _ in shapes]
    parts = [
        Part(cache, TOKENS[: len(parents or TOKENS)], 2, parents)
        for cache, (_, parents) in zip(caches, shapes, strict=True)
    ]
    for (prefix, _), part, views in zip(shapes, parts, model.forward(parts), strict=True):
        (alone,) = model.forward([Part(filled(model, prefix), part.tokens, 2, part.parents)])
        assert torch.allclose(torch.from_numpy(views.logits), torch.from_numpy(alone.logits), atol=1e-4)
