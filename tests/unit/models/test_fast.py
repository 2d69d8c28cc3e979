"""The fast backend's caches, errors, drafts and formats, on tiny random Llamas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sprinter.core.rows import Part
from sprinter.errors import BackendError, ConfigError
from sprinter.models.checkpoint import DraftInfo, open_checkpoint, write_draft
from sprinter.models.fast.config import supports
from sprinter.models.fast.model import FastModel
from sprinter.native import library as native
from tests.support.passes import filled, read

VOCAB, HIDDEN, INTER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 96, 64, 96, 3, 4, 2, 16
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INTER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
TOKENS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79]


def random_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * 0.2

    tensors = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN), "model.norm.weight": torch.ones(HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes = {
            "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
            "mlp.gate_proj": (INTER, HIDDEN),
            "mlp.up_proj": (INTER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTER),
        }
        tensors |= {f"{layer}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        tensors |= {f"{layer}.{name}.weight": torch.ones(HIDDEN) for name in NORMS}
    return tensors


NORMS = ("input_layernorm", "post_attention_layernorm")


def write_model(folder: Path, config: dict[str, Any] = CONFIG, **changed: torch.Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({**random_tensors(), **changed}, str(folder / "model.safetensors"))
    return folder


@pytest.fixture(params=["compiled", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute with quantised weights."""
    if request.param == "torch":
        monkeypatch.setenv("SPRINTER_NATIVE", "0")
    elif native.library() is None:
        pytest.skip("no C++ compiler or no AVX2 here")
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
def test_cached_equals_uncached_after_truncating(folder: Path, tmp_path: Path, weights: str, kernels: str) -> None:
    model = FastModel.load(folder, weights, cache=tmp_path)
    assert model.compiled == (kernels == "compiled" and weights.startswith("int"))
    rng, cache, sequence = np.random.default_rng(1), model.open(), list(TOKENS)
    read(model, sequence, 1, cache)
    for _ in range(12):
        sequence = sequence[: int(rng.integers(0, len(sequence)))]
        cache.truncate(len(sequence))
        new = rng.integers(0, VOCAB, int(rng.integers(1, 12))).tolist()
        sequence += new
        wanted = int(rng.integers(1, len(new) + 1))
        warm, cold = read(model, new, wanted, cache).logits, read(model, sequence, wanted).logits
        assert cache.length == len(sequence)
        # In torch other block shapes sum in another order, and activations round at another place (bfloat16: 2^-8).
        # The compiled pass promises the very same bits.
        tolerance = 0.0 if model.compiled else 1e-5 if weights == "float32" else 0.04 * np.abs(cold).max()
        assert np.abs(warm - cold).max() <= tolerance


@pytest.mark.parametrize("weights", ["float32", "int4"])
def test_views_of_one_pass_survive_the_next(folder: Path, tmp_path: Path, weights: str) -> None:
    model = FastModel.load(folder, weights, cache=tmp_path)
    cache = model.open()
    first = read(model, TOKENS, 2, cache)
    assert first.hidden is not None
    held = [part.copy() for part in (first.logits, first.hidden, first.facts.table)]
    read(model, [1, 2], 2, cache)
    assert all(np.array_equal(a, b) for a, b in zip(held, (first.logits, first.hidden, first.facts.table), strict=True))
    assert (first.logits.dtype, first.logits.shape) == (np.float32, (2, VOCAB))


@pytest.mark.parametrize("weights", ["float32", "int4"])
def test_a_part_may_want_no_rows(folder: Path, tmp_path: Path, weights: str) -> None:
    model = FastModel.load(folder, weights, cache=tmp_path)
    caches = [model.open(), model.open()]
    nothing, last = model.forward([Part(caches[0], TOKENS, 0), Part(caches[1], TOKENS, 1)])
    assert [len(part) for part in (nothing.logits, nothing.facts.table)] == [0, 0]
    assert last.logits.shape == (1, VOCAB)
    assert [cache.length for cache in caches] == [len(TOKENS)] * 2
    assert read(model, [1, 2], 0, caches[0]).logits.shape[0] == 0
    assert model.forward([]) == []


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("weights", ["float32", "int4"])
def test_facts_are_what_the_logits_say(folder: Path, tmp_path: Path, weights: str) -> None:
    views = read(FastModel.load(folder, weights, cache=tmp_path), TOKENS, 5)
    for row, logits in enumerate(views.logits.astype(float)):
        law = np.exp(logits - np.logaddexp.reduce(logits))
        assert views.facts.best(row) == logits.argmax()
        assert views.facts.log_total(row) == pytest.approx(np.logaddexp.reduce(logits), abs=1e-5)
        assert views.facts.entropy(row) == pytest.approx(-(law * np.log(law)).sum(), abs=1e-5)
        assert views.facts.second(row) == np.sort(logits)[-2]


@pytest.mark.usefixtures("kernels")
def test_info_counts_what_a_step_multiplies_with(folder: Path, tmp_path: Path) -> None:
    per_layer = HIDDEN * (HEADS + 2 * KV_HEADS) * HEAD_DIM + HIDDEN * HEADS * HEAD_DIM + 3 * HIDDEN * INTER
    expected = LAYERS * per_layer + VOCAB * HIDDEN
    for weights in ("float32", "int8", "int4"):
        model = FastModel.load(folder, weights, cache=tmp_path)
        info = model.info
        assert info.num_parameters == expected
        assert info.backend == ("fast-compiled" if model.compiled else "fast")
        assert (info.weights, info.fingerprint) == (weights, open_checkpoint(folder).fingerprint)
    assert FastModel.load(folder, "float32").info.bytes_per_step == 4 * expected


@pytest.mark.parametrize("weights", ["float32", "int4"])
def test_rows_beyond_the_context_window_are_refused_and_the_model_stays_usable(
    folder: Path, tmp_path: Path, weights: str
) -> None:
    model = FastModel.load(folder, weights, cache=tmp_path)
    with pytest.raises(ConfigError, match=r"has 65 tokens.*reads at most 64"):
        read(model, [1] * 65)
    cache = filled(model, [1] * 60)
    with pytest.raises(ConfigError, match=r"has 65 tokens.*reads at most 64"):
        model.forward([Part(cache, [1] * 5, 1, [-1, 0, 1, 2, 3])])
    # It is depth that counts: branches side by side may be more rows than there are positions left.
    (views,) = model.forward([Part(cache, [1] * 9, 9, [-1, 0, 1, 2, -1, 4, 5, 6, -1])])
    assert np.allclose(views.logits[7], read(model, [1] * 64).logits[0], atol=1e-5)
    cache.keep([4, 5, 6, 7])
    assert cache.length == 64


@pytest.mark.parametrize("weights", ["float32", "int4"])
def test_a_part_that_cannot_be_run_is_refused_and_no_cache_changes(folder: Path, tmp_path: Path, weights: str) -> None:
    model, other = (FastModel.load(folder, weights, cache=tmp_path) for _ in range(2))
    good, bad = filled(model, TOKENS), filled(model, TOKENS[:3])
    model.forward([Part(bad, [1, 2], 0, [-1, -1])])
    refused: list[tuple[Part, type[Exception], str]] = [
        (Part(bad, [1, VOCAB], 1, [0, 1]), BackendError, "token ids 0 to 95"),
        (Part(bad, [-1], 1, [0]), BackendError, "token ids 0 to 95"),
        (Part(bad, [1], 2, [0]), ConfigError, "2 views of 1 tokens at 1 places"),
        (Part(bad, [], 0, []), ConfigError, "0 views of 0 tokens"),
        (Part(bad, [1, 2], 1, [0]), ConfigError, "1 views of 2 tokens at 1 places"),
        (Part(bad, [1, 2], 1, [0, 3]), ConfigError, "names row 3"),
        (Part(bad, [1], 1, [-2]), ConfigError, "names row -2"),
        (Part(bad, [1], 1), ConfigError, "keep or truncate"),
        (Part(good, [1], 1), ConfigError, "the same cache"),
        (Part(other.open(), [1], 1), BackendError, "another model"),
    ]
    for part, error, words in refused:
        with pytest.raises(error, match=words):
            model.forward([Part(good, [5], 1), part])
        assert (good.length, bad.length) == (len(TOKENS), 3)
    # As if nothing had been tried.
    (views,) = model.forward([Part(bad, [7], 1, [1])])
    assert np.allclose(views.logits, read(model, [*TOKENS[:3], 2, 7]).logits, atol=1e-5)


@pytest.mark.parametrize("weights", ["float32", "int4"])
def test_damaged_weights_are_reported_and_no_cache_keeps_the_failed_pass(tmp_path: Path, weights: str) -> None:
    embed = random_tensors()["model.embed_tokens.weight"]
    embed[5] = torch.nan
    folder = write_model(
        tmp_path / "nan",
        {**CONFIG, "tie_word_embeddings": False},
        **{"model.embed_tokens.weight": embed, "lm_head.weight": random_tensors(2)["model.embed_tokens.weight"]},
    )
    model = FastModel.load(folder, weights, cache=tmp_path)
    chain, tree = filled(model, [1]), filled(model, [1])
    model.forward([Part(tree, [2], 1, [-1])])
    for failing in ([5, 3], [6, 5]):
        with pytest.raises(BackendError, match="NaN or infinite"):
            model.forward([Part(chain, [2, failing[0]], 1), Part(tree, [3, failing[1]], 1, [0, 1])])
    assert (chain.length, tree.length) == (1, 1)
    expected = [read(model, tokens).logits for tokens in ([1, 2, 6], [1, 2, 7])]
    found = model.forward([Part(chain, [2, 6], 1), Part(tree, [7], 1, [0])])
    assert all(np.allclose(views.logits, logits, atol=1e-5) for views, logits in zip(found, expected, strict=True))


@pytest.mark.usefixtures("kernels")
def test_a_cache_refuses_what_it_cannot_do(folder: Path, tmp_path: Path) -> None:
    model = FastModel.load(folder, "int4", cache=tmp_path)
    cache = filled(model, TOKENS)
    model.forward([Part(cache, [1, 2, 3], 0, [-1, 0, 0])])
    for path in ([1], [0, 0], [1, 2], [0, 1, 2], [-1], [3]):
        with pytest.raises(ConfigError, match="are no path"):
            cache.keep(path)
    with pytest.raises(ConfigError, match="3 loose rows"):
        cache.fork()
    with pytest.raises(ConfigError, match="cannot cut"):
        cache.truncate(-1)
    with pytest.raises(ConfigError, match="cannot cut"):
        cache.truncate(len(TOKENS) + 1)
    cache.truncate(len(TOKENS))  # drops what is loose
    assert cache.length == cache.fork().length == len(TOKENS)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    tensors = random_tensors()
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, str(folder / "model.safetensors"))
    with pytest.raises(BackendError, match=r"layers\.1\.mlp\.up_proj"):
        FastModel.load(folder, "float32")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "yarn"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"partial_rotary_factor": 0.5}, "rotates only"),
        ({"quantization_config": {"bits": 4}}, "already quantised"),
    ],
)
def test_what_it_cannot_run_is_refused_by_name_and_not_supported(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    config = {**CONFIG, **change}
    assert not supports(config)
    with pytest.raises(BackendError, match=words):
        FastModel.load(write_model(tmp_path / "model", config), "float32")


def test_unknown_formats_and_quantised_weights_off_the_cpu_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="none of int4, int8"):
        FastModel.load(folder, "int3")
    with pytest.raises(ConfigError, match="for the CPU"):
        FastModel.load(folder, "int4", device="cuda")


def test_a_sliding_window_bounds_the_context(tmp_path: Path) -> None:
    config = {**CONFIG, "model_type": "mistral", "sliding_window": 32}
    assert FastModel.load(write_model(tmp_path / "model", config), "float32").info.context_length == 32


@pytest.mark.parametrize("damage", ["truncated", "foreign", "text"])
@pytest.mark.usefixtures("kernels")
def test_a_damaged_quantised_cache_is_made_again(folder: Path, tmp_path: Path, damage: str) -> None:
    expected = read(FastModel.load(folder, "int4", cache=tmp_path), TOKENS, 3).logits
    (stored,) = (tmp_path / "fast").glob("*.safetensors")
    whole = stored.read_bytes()
    if damage == "truncated":
        stored.write_bytes(whole[: len(whole) // 2])
    elif damage == "text":
        stored.write_text("not a safetensors file")
    else:
        save_file({"norm": torch.zeros(1)}, str(stored), metadata={"fingerprint": "another"})
    assert np.array_equal(read(FastModel.load(folder, "int4", cache=tmp_path), TOKENS, 3).logits, expected)
    assert stored.stat().st_size == len(whole)
    assert [path.name for path in (tmp_path / "fast").iterdir()] == [stored.name]


def test_a_cache_folder_that_cannot_be_written_costs_only_time(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert read(FastModel.load(folder, "int4", cache=blocked), TOKENS).logits.shape == (1, VOCAB)


def make_draft(folder: Path, target: Path, head_ids: list[int] | None) -> Path:
    lost = ("embed_tokens.", *(f"layers.{i}." for i in range(1, LAYERS)))
    own = {n: t for n, t in random_tensors(1).items() if not any(part in n for part in lost)}
    config = {**CONFIG, "num_hidden_layers": 1}
    info = DraftInfo(("model.embed_tokens.weight",), open_checkpoint(target).fingerprint, None, "")
    write_draft(folder, config, own, info, head_ids)
    return folder


def test_a_draft_with_head_tokens_gives_those_rows_of_the_full_head(folder: Path, tmp_path: Path) -> None:
    ids = [2, 5, 7, 30, 95]
    full = FastModel.load(make_draft(tmp_path / "full", folder, None), "float32", target=folder)
    part = FastModel.load(make_draft(tmp_path / "part", folder, ids), "float32", target=folder)
    assert full.head_tokens is None
    assert part.head_tokens is not None
    assert part.head_tokens.tolist() == ids
    assert np.allclose(read(part, TOKENS, 4).logits, read(full, TOKENS, 4).logits[:, ids], atol=1e-5)
    assert part.info.vocab_size == VOCAB


def test_a_shared_draft_needs_its_own_target(folder: Path, tmp_path: Path) -> None:
    draft = make_draft(tmp_path / "draft", folder, None)
    with pytest.raises(BackendError, match="name the target too"):
        FastModel.load(draft, "float32")
    other = write_model(tmp_path / "other", {**CONFIG, "rms_norm_eps": 1e-6})
    with pytest.raises(BackendError, match="borrows tensors of target"):
        FastModel.load(draft, "float32", target=other)
