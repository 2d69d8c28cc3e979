"""Many texts on one model: company in a pass, threads and forked processes change nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from sprinter.core.rows import Part, Views
from sprinter.models.fast.model import FastModel
from sprinter.native import library as native
from tests.support.passes import filled, read
from tests.unit.models.test_fast import CONFIG, VOCAB, write_model

CONTEXT = 600


@pytest.fixture
def threads() -> Iterator[None]:
    """The pass may be shared among two threads, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", {**CONFIG, "max_position_embeddings": CONTEXT})


@pytest.fixture(params=["int4", "int8"])
def compiled(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> FastModel:
    if native.library() is None:
        pytest.skip("no C++ compiler or no AVX2 here")
    return FastModel.load(folder, request.param, cache=tmp_path)


def same(a: Views, b: Views) -> bool:
    assert a.hidden is not None
    assert b.hidden is not None
    pairs = ((a.logits, b.logits), (a.hidden, b.hidden), (a.facts.table, b.facts.table))
    return all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


def random_part(model: FastModel, rng: np.random.Generator, longest: int) -> tuple[Part, Part]:
    """One and the same part for two caches of equal content: a chain or a tree behind a text of any length."""
    prefix = rng.integers(0, VOCAB, int(rng.integers(0, 300))).tolist()
    count = int(rng.integers(1, longest))
    tokens = rng.integers(0, VOCAB, count).tolist()
    parents = [int(rng.integers(-1, i)) for i in range(count)] if rng.random() < 0.5 else None
    wanted = int(rng.integers(0, count + 1))
    first, second = (Part(filled(model, prefix), tokens, wanted, parents) for _ in range(2))
    return first, second


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("owners", [2, 7, 16])
def test_company_changes_no_bits(compiled: FastModel, owners: int) -> None:
    rng = np.random.default_rng(owners)
    for longest in (2, 9, 80):  # the last fills several blocks of rows that are computed at once
        pairs = [random_part(compiled, rng, longest) for _ in range(owners)]
        together = compiled.forward([part for part, _ in pairs])
        for (first, second), views in zip(pairs, together, strict=True):
            assert same(views, compiled.forward([second])[0])
            if first.parents is None:  # and what lies in the caches is the same, too
                assert same(read(compiled, [7], 1, first.cache), read(compiled, [7], 1, second.cache))


def written(model: FastModel, seed: int, steps: int = 20) -> list[bytes]:
    """A greedy text of its own for every seed, by chains, trees and truncations; the logits it saw."""
    rng, cache = np.random.default_rng(seed), model.open()
    views = read(model, rng.integers(0, VOCAB, int(rng.integers(1, 60))).tolist(), 1, cache)
    seen = [views.logits.tobytes()]
    for _ in range(steps):
        token = views.facts.best(-1)
        if rng.random() < 0.3:
            other = int(rng.integers(0, VOCAB))
            (views,) = model.forward([Part(cache, [token, other, other], 3, [-1, -1, 0])])
            cache.keep([0, 2])
        else:
            cache.truncate(cache.length - int(rng.integers(0, 2)))
            views = read(model, [token], 1, cache)
        seen.append(views.logits.tobytes())
    return seen


@pytest.mark.parametrize("weights", ["float32", "int4"])
def test_python_threads_on_caches_of_their_own_get_what_they_would_get_alone(
    folder: Path, tmp_path: Path, weights: str
) -> None:
    model = FastModel.load(folder, weights, cache=tmp_path)
    alone = [written(model, seed) for seed in range(8)]
    model = FastModel.load(folder, weights, cache=tmp_path)  # its rotations are still to be made, by all at once
    start, before = threading.Barrier(8), sys.getswitchinterval()

    def begin(seed: int) -> list[bytes]:
        start.wait()
        return written(model, seed)

    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(begin, range(8))) == alone
    finally:
        sys.setswitchinterval(before)


def in_a_child(work: Callable[[], bytes], seconds: int = 20) -> bytes:
    """What `work` gives in a forked process; nothing where it has not done so in time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(seconds)  # a child that hangs is ended by the system
            os.write(writer, hashlib.sha256(work()).digest())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return found


@pytest.mark.usefixtures("threads")
def test_a_forked_process_computes_the_same_with_threads_of_its_own(compiled: FastModel) -> None:
    cache, tokens = filled(compiled, [1, 2, 3]), [i % VOCAB for i in range(290)]  # the cache grows in the child
    expected = read(compiled, tokens, 2, cache.fork()).logits.tobytes()
    stop, busy = threading.Event(), threading.Event()

    def decode() -> None:
        while not stop.is_set():  # a pass is under way while the process forks
            read(compiled, tokens[:50])
            busy.set()

    def again() -> bytes:
        return read(compiled, tokens, 2, cache).logits.tobytes()

    other = threading.Thread(target=decode)
    other.start()
    try:
        busy.wait()
        children = [in_a_child(again) for _ in range(5)]
    finally:
        stop.set()
        other.join()
    assert children == [hashlib.sha256(expected).digest()] * 5
    assert again() == expected
