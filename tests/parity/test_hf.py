"""Rows of many texts through transformers models of every architecture the issue names, against plain passes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sprinter.core.rows import Cache, FloatArray, Part, Views
from sprinter.errors import BackendError, ConfigError
from sprinter.models import hf
from sprinter.models.base import ancestors
from sprinter.models.hf import HFModel
from sprinter.models.toy import ToyModel
from tests.support.tiny import CONTEXT, FAMILIES, VOCAB, build_model, save_model

WITHOUT_TREES = {"gpt_neo"}  # its window counts columns
WITH_TREES = [family for family in FAMILIES if family not in WITHOUT_TREES]

tokens = st.integers(2, 200)
lines = st.lists(tokens, min_size=1, max_size=14)
each_family = pytest.mark.parametrize("family", FAMILIES)
each_with_trees = pytest.mark.parametrize("family", WITH_TREES)
few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def trees(max_size: int = 9) -> st.SearchStrategy[tuple[list[int], list[int]]]:
    """Tokens and parents of a tree."""
    rows = st.lists(st.tuples(tokens, st.integers(0, 99)), min_size=1, max_size=max_size)
    return rows.map(lambda rows: ([t for t, _ in rows], [parent % (i + 1) - 1 for i, (_, parent) in enumerate(rows)]))


_BUILT: dict[str, HFModel] = {}


def built(family: str) -> HFModel:
    if family not in _BUILT:
        _BUILT[family] = HFModel(build_model(family, seed=3), family, "fingerprint")
    return _BUILT[family]


def filled(model: HFModel, line: list[int]) -> Cache:
    cache = model.open()
    model.forward([Part(cache, line, 0)])
    return cache


def alone(model: HFModel, text: list[int], wanted: int = 1) -> Views:
    """The last views of `text`, read by one plain pass."""
    return model.forward([Part(model.open(), text, wanted)])[0]


def assert_close(ours: FloatArray, wanted: FloatArray) -> None:
    # Float32 sums in another order, of logits up to 50 here.
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))


def assert_same(ours: Views, wanted: Views) -> None:
    assert_close(ours.logits, wanted.logits)
    assert ours.hidden is not None and wanted.hidden is not None
    assert_close(ours.hidden, wanted.hidden)
    assert (ours.facts.table[:, 0] == ours.logits.argmax(axis=-1)).all()


@each_family
def test_greedy_steps_equal_transformers_generate(family: str) -> None:
    model = built(family)
    line, written = [5, 9, 30, 44, 21, 7, 80, 100, 3], []
    cache = model.open()
    new = line
    while len(written) < 24:
        (view,) = model.forward([Part(cache, new, 1)])
        new = [view.facts.best(0)]
        written += new
    wanted = model.module.generate(torch.tensor([line]), do_sample=False, max_new_tokens=24, eos_token_id=None)
    assert written == wanted[0, len(line) :].tolist()
    assert len(set(written)) > 2, "a text of one token over and over would prove little"


@each_family
@few
@given(data=st.data())
def test_a_cached_pass_equals_an_uncached_one_after_any_truncations(family: str, data: st.DataObject) -> None:
    model, cache, line = built(family), built(family).open(), []
    for _ in range(3):
        keep = data.draw(st.integers(0, len(line)), label="keep")
        more = data.draw(lines, label="more")
        cache.truncate(keep)
        line = line[:keep] + more
        wanted = data.draw(st.integers(1, len(more)), label="wanted")
        (view,) = model.forward([Part(cache, more, wanted)])
        assert cache.length == len(line)
        assert_same(view, alone(model, line, wanted))


@each_with_trees
@few
@given(line=lines, tree=trees(), more=trees(3), data=st.data())
def test_a_tree_pass_equals_its_paths_one_by_one_after_keep_truncate_and_fork(
    family: str,
    line: list[int],
    tree: tuple[list[int], list[int]],
    more: tuple[list[int], list[int]],
    data: st.DataObject,
) -> None:
    model = built(family)
    cache = filled(model, line)
    (first,) = model.forward([Part(cache, tree[0], len(tree[0]), tree[1])])
    # A second part grows on any row of the first.
    under = data.draw(st.integers(-1, len(tree[0]) - 1), label="under")
    grown = [parent + len(tree[0]) if parent >= 0 else under for parent in more[1]]
    (second,) = model.forward([Part(cache, more[0], len(more[0]), grown)])
    spelled, parents = tree[0] + more[0], tree[1] + grown
    paths = [ancestors(parents, row) for row in range(len(parents))]
    for row, path in enumerate(paths):
        view = alone(model, [*line, *(spelled[place] for place in path)])
        assert_close(np.concatenate([first.logits, second.logits])[row], view.logits[0])
        assert_close(np.concatenate([first.hidden, second.hidden])[row], view.hidden[0])  # type: ignore[list-item,index]

    path = data.draw(st.sampled_from([[], *paths]), label="path")
    cache.keep(path)
    kept = line + [spelled[place] for place in path]
    twin = cache.fork()
    cut = data.draw(st.integers(0, len(kept)), label="cut")
    twin.truncate(cut)
    ours, theirs = model.forward([Part(cache, [11, 12], 2), Part(twin, [13], 1)])
    assert_same(ours, alone(model, [*kept, 11, 12], 2))
    assert_same(theirs, alone(model, [*kept[:cut], 13]))
    assert (cache.length, twin.length) == (len(kept) + 2, cut + 1)


@each_family
@few
@given(data=st.data())
def test_texts_of_any_lengths_in_one_pass_are_read_as_alone(family: str, data: st.DataObject) -> None:
    model = built(family)
    texts = data.draw(st.lists(st.tuples(st.lists(tokens, max_size=14), lines), min_size=2, max_size=4), label="texts")
    caches = [filled(model, line) if line else model.open() for line, _ in texts]
    wanted = [data.draw(st.integers(0, len(new))) for _, new in texts]
    parts = [Part(cache, new, n) for cache, (_, new), n in zip(caches, texts, wanted, strict=True)]
    for view, (line, new), n in zip(model.forward(parts), texts, wanted, strict=True):
        assert view.logits.shape == (n, VOCAB)
        if n:
            assert_same(view, alone(model, line + new, n))
    for cache, (line, new) in zip(caches, texts, strict=True):
        assert_same(model.forward([Part(cache, [50], 1)])[0], alone(model, [*line, *new, 50]))


def test_trees_and_chains_of_several_texts_share_a_pass() -> None:
    model = built("qwen3")
    a, b, c = filled(model, list(range(10, 20))), filled(model, [30, 31]), model.open()
    views = model.forward([Part(a, [5, 6, 7], 2, [-1, -1, 1]), Part(b, [8], 1), Part(c, [9, 10], 2, [-1, -1])])
    assert_same(views[0], Views(*stacked(model, [[*range(10, 20), 6], [*range(10, 20), 6, 7]]), views[0].facts))
    assert_same(views[1], alone(model, [30, 31, 8]))
    assert_same(views[2], Views(*stacked(model, [[9], [10]]), views[2].facts))
    a.keep([1, 2])
    c.keep([])
    assert (a.length, b.length, c.length) == (12, 3, 0)
    assert_same(model.forward([Part(a, [4], 1)])[0], alone(model, [*range(10, 20), 6, 7, 4]))
    assert_same(model.forward([Part(c, [4], 1)])[0], alone(model, [4]))


def stacked(model: HFModel, texts: list[list[int]]) -> tuple[FloatArray, FloatArray]:
    views = [alone(model, text) for text in texts]
    return np.concatenate([v.logits for v in views]), np.concatenate([v.hidden for v in views])  # type: ignore[misc]


@pytest.mark.parametrize("family", sorted(WITHOUT_TREES))
def test_a_family_that_takes_no_masks_refuses_trees_and_still_serves_chains(family: str) -> None:
    model = built(family)
    assert not model.gives.trees
    cache = filled(model, [3, 4])
    with pytest.raises(BackendError, match=f"{family} reads no trees"):
        model.forward([Part(cache, [5, 6], 1, [-1, -1])])
    (view,) = model.forward([Part(cache, [5, 6], 1, [-1, 0])])
    assert_same(view, alone(model, [3, 4, 5, 6]))


@each_with_trees
def test_a_family_gives_trees_only_as_long_as_masked_passes_say_what_plain_ones_say(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = HFModel(build_model(family, seed=3), family, "fingerprint")
    assert model.gives.trees
    kinds = hf._windows(model.module.config)
    assert kinds is not None
    if any(kinds.values()):
        # Masks that forget the window; the probe's text is shorter than it.
        monkeypatch.setattr(hf, "_windows", lambda _config: dict.fromkeys(kinds))
    else:
        monkeypatch.setattr(
            "sprinter.models.hf_cache.sight", lambda c, p, at, _w: np.ones((len(at), c.length + len(at)), bool)
        )
    assert not HFModel(model.module, family, "fingerprint").gives.trees


def test_one_chain_is_one_plain_call_over_its_own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HFModel(build_model("llama"), "llama", "fingerprint")
    asked: list[dict[str, Any]] = []
    model.module.register_forward_pre_hook(lambda _m, _a, options: asked.append(options), with_kwargs=True)
    cache = model.open()
    model.forward([Part(cache, [2, 3, 4], 2)])
    model.forward([Part(cache, [5, 6], 1, [-1, 0])])
    assert [options["logits_to_keep"] for options in asked] == [2, 1]
    assert [list(options["input_ids"].shape) for options in asked] == [[1, 3], [1, 2]]
    assert not any("attention_mask" in options for options in asked)
    assert asked[0]["past_key_values"] is asked[1]["past_key_values"]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neo"])
def test_long_passes_in_chunks_say_what_whole_ones_say(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(family)
    line, short = [(11 * i) % 190 + 2 for i in range(23)], [7, 8, 9]
    whole = alone(model, line, 14), alone(model, short, 2)
    tree = Part(filled(model, short), line[:9], 9, [-1, -1, 0, 1, 3, 2, 5, 0, 7])
    branches = model.forward([tree])[0] if model.gives.trees else None
    monkeypatch.setattr(hf, "CHUNK", 4)
    for ours, wanted in zip(
        model.forward([Part(model.open(), line, 14), Part(model.open(), short, 2)]), whole, strict=True
    ):
        assert_same(ours, wanted)
    if branches is not None:
        tree.cache.keep([])
        assert_same(model.forward([tree])[0], branches)


@pytest.fixture
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switches")
@pytest.mark.parametrize("family", ["qwen3", "gpt_neo", "longrope"])
def test_threads_with_caches_of_their_own_do_not_disturb_each_other(family: str) -> None:
    model = longrope() if family == "longrope" else built(family)
    model.gives  # noqa: B018 - looked up once, before the threads race for it

    def write(seed: int) -> list[FloatArray]:
        # Some begin behind the turn of longrope, some cross it.
        cache, found, new = model.open(), [], [(seed + 5) * n + 3 for n in range(1, 5 + 7 * (seed % 4))]
        for _ in range(12):
            (view,) = model.forward([Part(cache, new, 1)])
            found += [view.logits[0], view.hidden[0]]  # type: ignore[index]
            new = [view.facts.best(0)]
        return found

    def disturb(_seed: int) -> None:
        # The module's owner may use it as well.
        with torch.inference_mode():
            for _ in range(0 if family == "longrope" else 20):
                model.module(input_ids=torch.tensor([[4, 5, 6]]))

    wanted = [write(seed) for seed in range(5)]
    with ThreadPoolExecutor(6) as pool:
        noise = pool.submit(disturb, 0)
        found = list(pool.map(write, range(5)))
        noise.result()
    for ours, theirs in zip(found, wanted, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b)


def test_passes_of_one_model_wait_for_each_other() -> None:
    model = HFModel(build_model("llama", seed=3), "llama", "fingerprint")
    inside: list[int] = []
    most = []

    def enter(*_: Any) -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.005)

    model.module.register_forward_pre_hook(enter)
    model.module.register_forward_hook(lambda *_: inside.clear())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: alone(model, [n + 2, 3]), range(8)))
    assert most == [1] * 8


def broken() -> HFModel:
    """Reads token 10 as NaN."""
    model = build_model("llama", seed=3)
    with torch.no_grad():
        model.get_input_embeddings().weight[10] = float("nan")
    return HFModel(model, "broken-one", "fingerprint")


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda c: Part(c, [10], 1), BackendError, "broken-one computed NaN"),
        (lambda c: Part(c, [2, 2, 2, 2, 2, 10], 1), BackendError, "broken-one computed NaN"),
        (lambda c: Part(c, [10, 2], 2, [-1, -1]), BackendError, "broken-one computed NaN"),
        (lambda c: Part(c, [VOCAB], 1), BackendError, f"given {VOCAB}"),
        (lambda c: Part(c, [3] * CONTEXT, 1), ConfigError, f"reads at most {CONTEXT}"),
        (lambda c: Part(c, [3, 4], 1, [0, -1]), ConfigError, "names row 0 as its parent"),
        (lambda c: Part(ToyModel.random(4, 0).open(), [3], 1), ConfigError, "cache of another model"),
        (lambda c: Part(built("llama").open(), [3], 1), ConfigError, "cache of another model"),
    ],
)
@pytest.mark.parametrize("company", [True, False])
def test_a_failed_pass_changes_no_cache(
    bad: Callable[[Cache], Part], error: type[Exception], message: str, company: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "CHUNK", 4)
    model = broken()
    good, other, fresh = filled(model, [2, 3, 4]), filled(model, [5, 6]), model.open()
    parts = [Part(good, [7, 8], 1), bad(other), Part(fresh, [2], 1)] if company else [bad(other)]
    with pytest.raises(error, match=message):
        model.forward(parts)
    assert (good.length, other.length, fresh.length) == (3, 2, 0)
    for cache, line in ((good, [2, 3, 4]), (other, [5, 6]), (fresh, [])):
        assert_same(model.forward([Part(cache, [7, 8], 2)])[0], alone(model, [*line, 7, 8], 2))


def test_a_failed_tree_leaves_earlier_loose_rows_in_place() -> None:
    model = broken()
    cache = filled(model, [2, 3])
    model.forward([Part(cache, [4, 5], 0, [-1, -1])])
    with pytest.raises(BackendError, match="NaN"):
        model.forward([Part(cache, [6, 10], 2, [1, 1])])
    (view,) = model.forward([Part(cache, [6], 1, [1])])
    assert_same(view, alone(model, [2, 3, 5, 6]))


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_unusable_weights_name_their_model(tmp_path: Path, damage: float) -> None:
    model = build_model("llama")
    with torch.no_grad():
        model.lm_head.weight[5, 0] = damage
    model.save_pretrained(str(tmp_path / "broken-one"))
    with pytest.raises(BackendError, match="broken-one computed NaN"):
        alone(HFModel.load(tmp_path / "broken-one"), [2, 3, 4])


@pytest.mark.parametrize(("weights", "width"), [("float64", 8), ("bfloat16", 4)])
def test_views_are_float64_where_the_weights_are_and_float32_else(tmp_path: Path, weights: str, width: int) -> None:
    model = HFModel.load(save_model(tmp_path / "model"), weights)
    assert model.gives.trees
    view = alone(model, [2, 3, 4])
    assert view.logits.itemsize == width and view.hidden is not None and view.hidden.itemsize == width
    assert model.embedding(3).shape == (model.info.hidden_size,)


TURN = 24
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 5.0, 9.0], "factor": 4.0}


def longrope() -> HFModel:
    """A Phi-3 whose rotary frequencies are others in texts of more than TURN tokens."""
    turning = {**LONGROPE, "original_max_position_embeddings": TURN}
    model = build_model("phi3", seed=3, original_max_position_embeddings=TURN, rope_parameters=turning)
    return HFModel(model, "phi3", "fingerprint")


def as_transformers(model: HFModel, text: list[int]) -> FloatArray:
    """The logits behind `text` read in one pass, without a cache of ours."""
    with torch.inference_mode():
        row: FloatArray = model.module(input_ids=torch.tensor([text])).logits[0, -1].numpy()
        return row


def test_greedy_steps_over_the_turn_of_longrope_equal_transformers_generate() -> None:
    model = longrope()
    line, written = [5, 9, 30, 44, 21, 7, 80, 100, 3], []
    cache, new = model.open(), line
    while len(written) < 40:
        (view,) = model.forward([Part(cache, new, 1)])
        new = [view.facts.best(0)]
        written += new
    wanted = model.module.generate(torch.tensor([line]), do_sample=False, max_new_tokens=40, eos_token_id=None)
    assert written == wanted[0, len(line) :].tolist()


@few
@given(data=st.data())
def test_rows_around_the_turn_of_longrope_are_those_of_their_own_text(data: st.DataObject) -> None:
    model = _BUILT.setdefault("longrope", longrope())
    assert model.gives.missing(hf.EVERYTHING) == ["trees"]
    line = data.draw(st.lists(tokens, min_size=15, max_size=30), label="line")
    caches, texts = [filled(model, line), model.open()], [line, []]
    for _ in range(3):
        parts = []
        for i, cache in enumerate(caches):
            texts[i] = texts[i][: data.draw(st.integers(0, len(texts[i])), label="keep")]
            cache.truncate(len(texts[i]))
            more = data.draw(st.lists(tokens, min_size=1, max_size=30), label="more")[: CONTEXT - len(texts[i])]
            parts.append(Part(cache, more, data.draw(st.integers(0, len(more)), label="wanted")))
            texts[i] = texts[i] + more
        for view, part, text in zip(model.forward(parts), parts, texts, strict=True):
            for row, place in enumerate(range(len(text) - part.wanted, len(text))):
                assert_close(view.logits[row], as_transformers(model, text[: place + 1]))
    twin = caches[0].fork()
    short = texts[0][: data.draw(st.integers(0, len(texts[0])), label="short")]
    twin.truncate(len(short))
    for cache, text in ((twin, short), (caches[0], texts[0])):
        if len(text) < CONTEXT:
            assert_close(model.forward([Part(cache, [8], 1)])[0].logits[0], as_transformers(model, [*text, 8]))


def test_a_pass_that_fails_behind_the_turn_leaves_the_cache_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "CHUNK", 4)
    model = longrope()
    with torch.no_grad():
        model.module.get_input_embeddings().weight[10] = float("nan")
    line = list(range(11, 11 + TURN - 2))
    cache = filled(model, line)
    with pytest.raises(BackendError, match="phi3 computed NaN"):
        model.forward([Part(cache, [3, 4, 5, 6, 7, 8, 9, 2, 10], 9)])
    assert cache.length == len(line)
    (view,) = model.forward([Part(cache, [3, 4, 5], 3)])
    for row in range(3):
        assert_close(view.logits[row], as_transformers(model, [*line, 3, 4, 5][: len(line) + row + 1]))
    with pytest.raises(BackendError, match="phi3 reads no trees"):
        model.forward([Part(cache, [3], 1, [-1])])


def test_dynamic_rotary_scaling_never_sets_in_as_texts_end_before() -> None:
    model = HFModel(
        build_model("llama", rope_parameters={"rope_type": "dynamic", "factor": 4.0}), "llama", "fingerprint"
    )
    line = [(11 * i) % 190 + 2 for i in range(CONTEXT)]
    cache = filled(model, line[:-4])
    (view,) = model.forward([Part(cache, line[-4:], 4)])
    assert_close(view.logits[3], as_transformers(model, line))
    assert_close(view.logits[0], as_transformers(model, line[:-3]))
    with pytest.raises(ConfigError, match="reads at most"):
        model.forward([Part(cache, [3], 1)])
