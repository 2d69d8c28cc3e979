"""Any decoder family can be cut, trained and stored as a shared draft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from sprinter.errors import BackendError, CapabilityError, ConfigError
from sprinter.learn import student
from sprinter.learn.teacher import output_law
from sprinter.models import checkpoint

VOCAB = 97
LLAMA_LIKE: dict[str, Any] = {
    "num_hidden_layers": 6,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
}
FAMILIES = {
    "gpt2": lambda: tf.GPT2Config(n_layer=6, n_embd=32, n_head=4, n_positions=64, vocab_size=VOCAB),
    "gpt_neo": lambda: tf.GPTNeoConfig(
        num_layers=6, hidden_size=32, num_heads=4, attention_types=[[["global", "local"], 3]], vocab_size=VOCAB
    ),
    "opt": lambda: tf.OPTConfig(
        num_hidden_layers=6, hidden_size=32, ffn_dim=64, num_attention_heads=4, word_embed_proj_dim=32, vocab_size=VOCAB
    ),
    "llama": lambda: tf.LlamaConfig(**LLAMA_LIKE),
    "qwen2": lambda: tf.Qwen2Config(**LLAMA_LIKE, tie_word_embeddings=True),
    "gemma2": lambda: tf.Gemma2Config(**LLAMA_LIKE, head_dim=8),
    "gemma3": lambda: tf.Gemma3TextConfig(**LLAMA_LIKE, head_dim=8),
}


def target(family: str) -> Any:
    torch.manual_seed(0)
    return tf.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_every_layer_gives_the_target_back(family: str) -> None:
    model = target(family)
    whole = student.make_student(model, range(6))
    ids = torch.randint(0, VOCAB, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(whole(ids).logits, model(ids).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_draft_comes_back_with_the_targets_embedding(family: str, tmp_path: Path) -> None:
    model = target(family)
    small: Any = student.make_student(model, (0, 3, 5))
    model.save_pretrained(tmp_path / "target")
    mark = checkpoint.open_checkpoint(tmp_path / "target").fingerprint
    info = checkpoint.DraftInfo(student.shared_names(small), mark, None, "")
    checkpoint.write_draft(tmp_path / "draft", small.config.to_dict(), student.own_state(small), info, [5, 1, 7])
    assert not any("embed" in n or "wte" in n for n in checkpoint.open_checkpoint(tmp_path / "draft").names)
    again, ids = checkpoint.load_torch_draft(tmp_path / "draft", tmp_path / "target")
    assert ids is not None
    assert ids.tolist() == [1, 5, 7]
    tokens = torch.randint(0, VOCAB, (2, 9))
    with torch.no_grad():
        # Own layers are stored in bfloat16: three significant digits.
        torch.testing.assert_close(again(tokens).logits, small(tokens).logits, rtol=0, atol=0.02)


def test_the_output_layer_is_rebuilt_with_its_soft_cap() -> None:
    law = output_law(target("gemma2"))
    assert law.softcap == 30.0


@pytest.mark.parametrize("keep", [(), (3, 1), (0, 0), (0, 6), (-1,)])
def test_an_impossible_choice_of_layers_is_refused(keep: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="ascending"):
        student.make_student(target("llama"), keep)


def test_a_narrow_feed_forward_part_keeps_the_neurons_that_say_most(tmp_path: Path) -> None:
    model = target("llama")
    neurons = model.config.intermediate_size
    silent = torch.arange(neurons) % 2 == 0
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, silent] = 0
    small: Any = student.make_student(model, range(6), feed_forward=neurons // 2)
    ids = torch.randint(0, VOCAB, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(small(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    assert small.config.intermediate_size == neurons // 2
    assert small.model.layers[0].mlp.gate_proj.weight.shape[0] == neurons // 2
    with pytest.raises(ConfigError, match="neurons"):
        student.make_student(model, (0, 5), feed_forward=neurons + 1)


def test_a_family_without_a_gated_feed_forward_part_is_not_narrowed() -> None:
    with pytest.raises(CapabilityError, match="gated"):
        student.make_student(target("gpt2"), (0, 5), feed_forward=8)


def test_the_default_choice_has_the_first_and_the_last_layer() -> None:
    assert student.default_layers(30, 4)[0] == 0
    assert student.default_layers(30, 4)[-1] == 29
    with pytest.raises(ConfigError):
        student.default_layers(3, 4)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    model = target("llama")
    small: Any = student.make_student(model, (0, 5))
    model.save_pretrained(tmp_path / "target")
    mark = checkpoint.open_checkpoint(tmp_path / "target").fingerprint
    info = checkpoint.DraftInfo(student.shared_names(small), mark, None, "")
    checkpoint.write_draft(tmp_path / "draft", small.config.to_dict(), student.own_state(small), info)
    return tmp_path


def test_a_draft_refuses_another_target(stored: Path) -> None:
    torch.manual_seed(1)
    tf.AutoModelForCausalLM.from_config(FAMILIES["llama"]()).save_pretrained(stored / "other")
    with pytest.raises(BackendError, match="borrows tensors of target"):
        checkpoint.load_torch_draft(stored / "draft", stored / "other")


def test_a_flipped_bit_names_the_checksum(stored: Path) -> None:
    file = stored / "draft" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(BackendError, match="SHA-256"):
        checkpoint.open_checkpoint(stored / "draft")


def test_a_truncated_file_is_one_clear_line(stored: Path) -> None:
    file = stored / "target" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BackendError, match="damaged or truncated"):
        checkpoint.open_checkpoint(stored / "target")


def test_pickled_weights_are_never_opened(stored: Path) -> None:
    (stored / "target" / "model.safetensors").rename(stored / "target" / "pytorch_model.bin")
    with pytest.raises(BackendError, match="never"):
        checkpoint.open_checkpoint(stored / "target")


def test_missing_models_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"config\.json"):
        checkpoint.open_checkpoint(tmp_path / "nowhere")


def test_writing_again_replaces_the_whole_folder(stored: Path) -> None:
    model = target("llama")
    info = checkpoint.DraftInfo((), "0", None, "")
    checkpoint.write_draft(stored / "draft", model.config.to_dict(), {"x": torch.ones(2)}, info)
    assert checkpoint.open_checkpoint(stored / "draft").names == ("x",)
    assert [p.name for p in stored.iterdir() if p.name.startswith(".")] == []


def test_the_fingerprint_follows_the_values_not_the_place(stored: Path) -> None:
    moved = stored / "moved"
    before = checkpoint.open_checkpoint(stored / "target").fingerprint
    (stored / "target").rename(moved)
    assert checkpoint.open_checkpoint(moved).fingerprint == before
