"""The compiled forward pass: its products, its independence of block shapes, and life without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sprinter.core.facts import facts_of
from sprinter.errors import BackendError
from sprinter.models.fast.model import FastModel
from sprinter.models.fast.native_runner import matrix
from sprinter.models.fast.quant import GROUP, dequantise_int4, quantise_int4, quantise_int8_groups
from sprinter.models.fast.weights import native_parts
from sprinter.native import library as native
from sprinter.native.rows import typical_floor
from tests.support.passes import read
from tests.unit.models.test_fast import CONFIG, TOKENS, VOCAB, random_tensors, write_model


@pytest.fixture
def compiled(tmp_path: Path) -> None:
    if native.library() is None:
        pytest.skip("no C++ compiler or no AVX2 here")


AVX2, VNNI = 0, 1  # levels of the library


@pytest.fixture
def levels(compiled: None) -> Iterator[None]:
    """The test may switch levels; afterwards the library computes with the best it has again."""
    library = native.library()
    if not library.sprinter_use_level(VNNI):
        pytest.skip("no AVX512-VNNI here")
    yield
    library.sprinter_use_level(VNNI)


def multiply(
    weight: torch.Tensor, x: torch.Tensor, weights: str, threads: int = 1, bias: torch.Tensor | None = None
) -> torch.Tensor:
    tensors = native_parts("w", weight, weights)
    if bias is not None:
        tensors["w.bias"] = bias
    return product(tensors, weight, x, threads)


def product(tensors: dict[str, torch.Tensor], weight: torch.Tensor, x: torch.Tensor, threads: int = 1) -> torch.Tensor:
    view = matrix(tensors, "w", *weight.shape)
    y = torch.full((len(x), len(weight)), torch.nan)
    native.library().sprinter_multiply(native.ctypes.byref(view), x.data_ptr(), len(x), y.data_ptr(), threads)
    return y


def stored_values(weight: torch.Tensor, weights: str) -> torch.Tensor:
    if weights == "int8":
        codes, scales = quantise_int8_groups(weight)
        return (codes.float().view(len(weight), -1, GROUP) * scales.float()[..., None]).view(weight.shape)
    codes, scale, zero = quantise_int4(weight, exact_scales=True)
    scale, minimum = scale.half().float(), (zero - 8 * scale).half().float()
    return dequantise_int4(codes, scale, minimum + 8 * scale)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("num_outputs", [8, 40, 45])  # whole tiles, an odd block, a padded block
def test_products_equal_float32_where_activations_are_exact(weights: str, rows: int, num_outputs: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(num_outputs, 3 * GROUP, generator=generator)
    x = torch.randint(-127, 128, (rows, 3 * GROUP), generator=generator).float()
    x[:, ::GROUP] = 127.0  # every group's scale is 1, so eight bits hold these activations exactly
    for threads in (1, 2):
        y = multiply(weight, x, weights, threads)
        expected = x.double() @ stored_values(weight, weights).double().t()
        assert (y - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_extreme_codes_do_not_overflow(weights: str) -> None:
    weight = torch.ones(8, 4 * GROUP)
    weight[:, ::2] = -1.0
    x = 127 * weight[:1].clone()
    y = multiply(weight, x, weights)
    assert torch.allclose(y, torch.full_like(y, 127.0 * 4 * GROUP), rtol=1e-3)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_activations_err_by_half_a_step(weights: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(16, 256, generator=generator), torch.randn(4, 256, generator=generator)
    stored = stored_values(weight, weights)
    steps = (x.view(4, -1, GROUP).abs().amax(-1, keepdim=True) / 127).expand(4, -1, GROUP).reshape(4, -1)
    bound = 0.5 * steps @ stored.abs().t() + 1e-4
    assert ((multiply(weight, x, weights) - x @ stored.t()).abs() <= bound).all()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_none_reaches_the_output(weights: str, value: float) -> None:
    x = torch.ones(2, 64)
    x[1, 40] = value
    y = multiply(torch.randn(8, 64), x, weights)
    assert y[0].isfinite().all()
    assert not y[1].isfinite().any()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("family", ["llama", "qwen3-like"])
def test_logits_do_not_depend_on_the_block_or_the_number_of_threads(tmp_path: Path, weights: str, family: str) -> None:
    extra = {}
    if family == "qwen3-like":
        extra = {f"model.layers.{i}.self_attn.{n}_norm.weight": torch.rand(16) + 0.5 for i in range(2) for n in "qk"}
        extra |= {
            f"model.layers.{i}.self_attn.{n}_proj.bias": torch.randn(64 if n == "q" else 32) * 0.1
            for i in range(2)
            for n in "qkv"
        }
    folder = write_model(tmp_path / "model", {**CONFIG, "max_position_embeddings": 600}, **extra)
    tokens = np.random.default_rng(0).integers(0, VOCAB, 590).tolist()  # two chunks, and the cache grows
    model = FastModel.load(folder, weights, cache=tmp_path)
    whole = read(model, tokens, 400)
    rng, at, found, cache = np.random.default_rng(1), 190, [], model.open()
    read(model, tokens[:at], 1, cache)
    before = torch.get_num_threads()
    try:
        while at < len(tokens):
            torch.set_num_threads(int(rng.integers(1, 4)))
            new = tokens[at : at + int(rng.integers(1, 20))]
            found.append(read(model, new, len(new), cache))
            at += len(new)
    finally:
        torch.set_num_threads(before)
    for name in ("logits", "hidden"):
        assert same_bits(np.concatenate([getattr(views, name) for views in found]), getattr(whole, name))
    assert same_bits(np.concatenate([views.facts.table for views in found]), whole.facts.table)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_weights_stored_on_its_grid_lose_nothing_but_activation_bits(tmp_path: Path, weights: str) -> None:
    on_grid = {
        name: tensor if "norm" in name else stored_values(tensor, "int8" if "embed" in name else weights)
        for name, tensor in random_tensors().items()
    }
    folder = write_model(tmp_path / "model", **on_grid)
    fast = read(FastModel.load(folder, weights, cache=tmp_path), TOKENS, len(TOKENS)).logits
    exact = read(FastModel.load(folder, "float32"), TOKENS, len(TOKENS)).logits
    # Eight bits per activation err by 0.3% of a group's largest; random layers add a few such errors up.
    assert np.sqrt(np.square(fast - exact).mean()) < 0.03 * exact.std()


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("num_outputs", [1, 16, 40, 147])
@pytest.mark.parametrize("groups", [1, 3, 18])
def test_both_levels_compute_the_same_bits(weights: str, num_outputs: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(num_outputs + groups)
    weight = torch.randn(num_outputs, groups * GROUP, generator=generator)
    bias = torch.randn(num_outputs, generator=generator)
    for rows in [*range(1, 18), 33]:
        # Magnitudes far apart make the order of a sum show in its last bits.
        x = torch.randn(rows, groups * GROUP, generator=generator).pow(5)
        found = []
        for level in (AVX2, VNNI):
            native.library().sprinter_use_level(level)
            found += [multiply(weight, x, weights, threads, bias).numpy() for threads in (1, 2, 3)]
        assert all(same_bits(found[0], other) for other in found[1:])


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("special", [0.0, 1e-45, 1e-38, 1e-30, 3e38, torch.inf, -torch.inf, torch.nan])
def test_both_levels_agree_on_extreme_codes_and_numbers(weights: str, special: float) -> None:
    shape = (32, 6 * GROUP)
    tensors = native_parts("w", torch.randn(shape), weights)
    codes = torch.tensor([0, 1, 127, 128, 129, 254, 255], dtype=torch.uint8)  # as int8: 0, 1, 127, -128, -127, -2, -1
    place = torch.arange(tensors["w.native_codes"].numel()).mul(5) % 13 % 7
    tensors["w.native_codes"] = codes[place].view(tensors["w.native_codes"].shape).contiguous()
    x = torch.tensor([127.0, -127.0, 1.0, -1.0, 127.0]).repeat(100)[: shape[1]].repeat(9, 1)
    x[3, 40:50] = special
    x[5] = special
    x[7, :GROUP] = special
    found = []
    for level in (AVX2, VNNI):
        native.library().sprinter_use_level(level)
        found.append(product(tensors, torch.empty(shape), x).numpy())
    assert np.array_equal(*found, equal_nan=True)
    assert same_bits(*(y[np.isfinite(y)] for y in found))
    assert np.isfinite(special) or not np.isfinite(found[0][3]).any()


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_both_levels_compute_the_same_forward_pass(tmp_path: Path, weights: str) -> None:
    folder = write_model(tmp_path / "model")
    tokens = np.random.default_rng(0).integers(0, VOCAB, 60).tolist()
    found = []
    for level in (AVX2, VNNI):
        native.library().sprinter_use_level(level)
        model = FastModel.load(folder, weights, cache=tmp_path)
        ends = [20, 21, 23, 31, 40, 60]
        cache, spans = model.open(), list(zip([0, *ends], ends, strict=False))
        outputs = [read(model, tokens[start:end], end - start, cache) for start, end in spans]
        found.append([np.concatenate([getattr(o, part) for o in outputs]) for part in ("logits", "hidden")])
    assert all(same_bits(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.usefixtures("compiled")
def test_a_bfloat16_embedding_gives_what_its_float32_copy_gives(tmp_path: Path) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in random_tensors().items()}
    stored = write_model(tmp_path / "halves", **halves)
    copied = write_model(tmp_path / "copied", **{name: tensor.float() for name, tensor in halves.items()})
    found = [read(FastModel.load(f, "int4", cache=tmp_path), TOKENS, 3).logits for f in (stored, copied)]
    assert same_bits(*found)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("vocab", [VOCAB, 9001])
@pytest.mark.parametrize("threads", [1, 3])
def test_facts_about_logits_are_what_the_logits_say(tmp_path: Path, vocab: int, threads: int) -> None:
    table = torch.randn(vocab, 64, generator=torch.Generator().manual_seed(1)) * 0.2
    config = {**CONFIG, "vocab_size": vocab, "max_position_embeddings": 600}
    folder = write_model(tmp_path / "model", config, **{"model.embed_tokens.weight": table})
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out = read(FastModel.load(folder, "int4", cache=tmp_path), [i % 90 for i in range(300)], 280)  # two chunks
    finally:
        torch.set_num_threads(before)
    for row, logits in enumerate(out.logits):
        assert out.facts.best(row) == logits.argmax()
        assert out.facts.log_total(row) == pytest.approx(float(np.logaddexp.reduce(logits.astype(float))), abs=1e-5)
        assert out.facts.second(row) == np.partition(logits, -2)[-2]
        log_epsilon, log_delta = np.log(0.09), np.log(0.3)
        floor = out.facts.log_total(row) + min(log_epsilon, log_delta - out.facts.entropy(row))
        # To the last bit: a token must not be atypical by who looked.
        assert floor == typical_floor(logits, log_epsilon, log_delta)
        assert same_bits(facts_of(logits), out.facts.table[row])


@pytest.mark.usefixtures("compiled")
def test_the_first_of_equal_logits_is_the_best(tmp_path: Path) -> None:
    table = torch.randn(9001, 64, generator=torch.Generator().manual_seed(1)) * 0.2
    config = {**CONFIG, "vocab_size": 9001}
    folder = write_model(tmp_path / "one", config, **{"model.embed_tokens.weight": table})
    likeliest = read(FastModel.load(folder, "int4", cache=tmp_path), [1, 2, 3]).facts.best(0)
    twin = (likeliest + 4100) % 9001
    assert twin > 3
    table[twin] = table[likeliest]
    folder = write_model(tmp_path / "two", config, **{"model.embed_tokens.weight": table})
    out = read(FastModel.load(folder, "int4", cache=tmp_path), [1, 2, 3])
    assert out.logits[0, twin] == out.logits[0, likeliest] == out.logits[0].max() == out.facts.second(0)
    assert out.facts.best(0) == min(twin, likeliest)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("rows", [1, 2, 300])
def test_numbers_that_are_none_are_reported(tmp_path: Path, rows: int) -> None:
    norm = torch.ones(64)
    norm[3] = torch.nan
    folder = write_model(tmp_path / "model", {**CONFIG, "max_position_embeddings": 600}, **{"model.norm.weight": norm})
    model = FastModel.load(folder, "int4", cache=tmp_path)
    assert model.compiled
    with pytest.raises(BackendError, match="NaN"):
        read(model, [1] * 300, rows)


@pytest.mark.usefixtures("compiled")
def test_a_level_that_is_none_changes_nothing() -> None:
    assert not native.library().sprinter_use_level(7)
