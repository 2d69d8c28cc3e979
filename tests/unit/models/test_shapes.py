"""Nothing is computed with tensors that are not what config.json says, nor with a cached file that was changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

from sprinter.door import Door
from sprinter.errors import BackendError, ConfigError
from sprinter.models.fast.config import architecture, objection
from sprinter.models.fast.fields import with_defaults
from sprinter.models.fast.model import FastModel
from sprinter.models.fast.weights import _digest
from tests.support.passes import read
from tests.support.tiny import save_model
from tests.unit.models.test_fast import CONFIG, HIDDEN, TOKENS, VOCAB, random_tensors, write_model

IMPOSSIBLE: list[dict[str, Any]] = [
    {"intermediate_size": 1 << 20},
    {"intermediate_size": 0},
    {"intermediate_size": 100},
    {"intermediate_size": 128},
    {"num_key_value_heads": 8},
    {"num_key_value_heads": 3},
    {"num_attention_heads": 0},
    {"num_attention_heads": 3},
    {"num_attention_heads": 8},
    {"num_hidden_layers": 0},
    {"num_hidden_layers": 1},
    {"num_hidden_layers": 4},
    {"num_hidden_layers": 1 << 40},
    {"hidden_size": 32},
    {"hidden_size": 128},
    {"hidden_size": -64},
    {"head_dim": 1 << 20},
    {"head_dim": 15},
    {"vocab_size": VOCAB + 1},
    {"vocab_size": 1 << 33},
    {"vocab_size": "96"},
    {"max_position_embeddings": 0},
    {"max_position_embeddings": 1 << 60},
    {"rms_norm_eps": "tiny"},
    {"rms_norm_eps": float("nan")},
    {"rope_theta": 0},
    {"rope_theta": -5.0},
    {"rope_scaling": {"rope_type": "linear"}},
    {"rope_scaling": {"rope_type": "linear", "factor": "two"}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
    {"rope_scaling": [1]},
    {"hidden_act": 3},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"tie_word_embeddings": False},
]


@pytest.mark.parametrize("weights", ["float32", "int4"])
@pytest.mark.parametrize("change", IMPOSSIBLE, ids=str)
def test_a_config_that_its_tensors_do_not_fit_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], weights: str
) -> None:
    folder = write_model(tmp_path / "model", {**CONFIG, **change})
    with pytest.raises(BackendError) as caught:
        FastModel.load(folder, weights, cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.k_proj.weight"])
@pytest.mark.parametrize("shape", [(0,), (HIDDEN + 1,), (2, 2, 2)])
def test_a_tensor_of_another_shape_is_named(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    folder = write_model(tmp_path / "model", **{name: torch.zeros(shape)})
    with pytest.raises(BackendError, match=name.replace(".", r"\.")):
        FastModel.load(folder, "float32")


def test_a_tensor_that_holds_no_numbers_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", **{"model.norm.weight": torch.ones(HIDDEN, dtype=torch.int8)})
    with pytest.raises(BackendError, match=r"stored as torch\.int8"):
        FastModel.load(folder, "float32")


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_widths_that_do_not_divide_into_groups_are_refused_for_quantised_formats(tmp_path: Path, weights: str) -> None:
    folder = save_model(tmp_path / "model", "llama", intermediate_size=48)
    with pytest.raises(ConfigError, match="intermediate_size is 48: use --weights float32"):
        FastModel.load(folder, weights, cache=tmp_path)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_what_config_json_leaves_out_is_what_transformers_takes_it_for(family: str) -> None:
    theirs = transformers.AutoConfig.for_model(family)
    ours = with_defaults(Door(), {"model_type": family}, "config.json")
    for name in (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "hidden_act"),
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    arch = architecture({"model_type": family})
    assert arch.num_kv_heads == theirs.num_key_value_heads
    assert arch.head_dim == getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert arch.rope["rope_theta"] == theirs.rope_parameters["rope_theta"]
    assert arch.out_bias == getattr(theirs, "attention_bias", False)


def test_a_model_that_looks_back_through_a_window_is_left_to_transformers() -> None:
    windowed = {**CONFIG, "model_type": "mistral", "sliding_window": 32}
    assert "window of 32 of its 64 tokens" in str(objection(windowed))
    assert objection({**windowed, "sliding_window": None}) is None
    assert objection({**windowed, "sliding_window": 64}) is None
    qwen = {**CONFIG, "model_type": "qwen2", "sliding_window": 32, "max_window_layers": 1}
    assert objection(qwen) is None, "Qwen2 has no window unless it says so"
    assert "window of 32" in str(objection({**qwen, "use_sliding_window": True}))
    assert objection({**qwen, "use_sliding_window": True, "max_window_layers": 3}) is None


def test_a_stored_head_counts_even_where_the_config_ties_it(tmp_path: Path) -> None:
    head = random_tensors(3)["model.embed_tokens.weight"]
    folder = write_model(tmp_path / "model", **{"lm_head.weight": head})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    with torch.inference_mode():
        wanted = theirs(torch.tensor([TOKENS])).logits[0, -3:].numpy()
    found = read(FastModel.load(folder, "float32"), TOKENS, 3).logits
    assert np.allclose(found, wanted, atol=1e-4)


def cached_file(tmp_path: Path) -> tuple[Path, Path, Any]:
    folder = write_model(tmp_path / "model")
    logits = read(FastModel.load(folder, "int4", cache=tmp_path), TOKENS, 3).logits
    (stored,) = (tmp_path / "fast").glob("*.safetensors")
    return folder, stored, logits


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9, 0.999])
def test_one_flipped_bit_in_a_cached_file_has_it_made_again(tmp_path: Path, place: float) -> None:
    folder, stored, logits = cached_file(tmp_path)
    whole = bytearray(stored.read_bytes())
    whole[int(len(whole) * place)] ^= 4
    stored.write_bytes(whole)
    assert np.array_equal(read(FastModel.load(folder, "int4", cache=tmp_path), TOKENS, 3).logits, logits)


@pytest.mark.parametrize("damage", ["lacks", "narrow", "format", "more"])
def test_a_cached_file_with_other_tensors_never_reaches_the_compiled_pass(tmp_path: Path, damage: str) -> None:
    folder, stored, logits = cached_file(tmp_path)
    with safe_open(str(stored), framework="pt") as stream:
        marks = stream.metadata()
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    name = next(n for n in tensors if n.startswith("1.down") and n.endswith(("codes", "packed")))
    if damage == "lacks":
        del tensors[name]
    elif damage == "narrow":
        tensors[name] = tensors[name][..., :-1].contiguous()
    elif damage == "format":
        tensors["norm"] = tensors["norm"].double()
    else:
        tensors["0.qkv.bias"] = torch.ones(1)
    save_file(tensors, str(stored), metadata={**marks, "sha256": _digest(tensors)})
    model = FastModel.load(folder, "int4", cache=tmp_path)
    if not model.compiled:
        pytest.skip("torch compares shapes itself")
    assert np.array_equal(read(model, TOKENS, 3).logits, logits)
