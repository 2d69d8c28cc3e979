"""Whole texts of every architecture the issue names against transformers' own greedy decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sprinter import Sprinter
from sprinter.core.rows import Part
from sprinter.errors import BackendError, ConfigError
from tests.support.tiny import CONTEXT, FAMILIES, MERGES, VOCAB, build_model, save_model, save_tokenizer

PROMPTS = ("the land and the thin band", "in the end", "Ünïcode 🚀 and\nnew lines")
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {family: save_model(place / family, family, seed=3) for family in FAMILIES}


def reference(folder: Path, ids: list[int], count: int = NEW_TOKENS) -> list[int]:
    """Greedy ids as transformers itself generates them."""
    from transformers import AutoModelForCausalLM

    key = (folder, tuple(ids), count)
    if key not in _WRITTEN:
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        written = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=count)[0].tolist()
        _WRITTEN[key] = written[len(ids) :]
    return _WRITTEN[key]


_WRITTEN: dict[tuple[Path, tuple[int, ...], int], list[int]] = {}


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_greedy_decoding_equals_transformers_generate(folders: dict[str, Path], family: str) -> None:
    writer = Sprinter.from_pretrained(target=folders[family], draft=folders[family], weights="float32", backend="hf")
    seen: set[int] = set()
    for prompt in PROMPTS:
        ids = writer.pair.tokenizer.encode(prompt)
        ours = writer.generate(prompt, method="target", max_new_tokens=NEW_TOKENS)
        wanted = reference(folders[family], ids)
        assert [t.id for t in ours.tokens] == wanted
        seen |= set(wanted)
    assert len(seen) > 6, "texts of a few tokens over and over would prove little"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "how",
    [
        {"method": "exact", "draft_length": 3},
        {"method": "lossless", "scorer": "confidence"},
        {"method": "lossless", "scorer": "margin", "lookahead": 0.0, "max_draft": 5},
    ],
    ids=["exact", "lossless", "lossless-ahead"],
)
def test_greedy_exact_methods_write_what_the_target_writes(
    folders: dict[str, Path], tmp_path: Path, family: str, how: dict[str, Any]
) -> None:
    # A draft that is the target with a little noise: some of its tokens stand, some fall.
    draft = build_model(family, seed=3)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    draft.save_pretrained(str(tmp_path))
    save_tokenizer(tmp_path)
    writer = Sprinter.from_pretrained(target=folders[family], draft=tmp_path, weights="float32", backend="hf")
    origins: set[str] = set()
    for prompt in PROMPTS:
        ours = writer.generate(prompt, max_new_tokens=NEW_TOKENS, **how)
        assert [t.id for t in ours.tokens] == reference(folders[family], writer.pair.tokenizer.encode(prompt))
        origins |= {t.origin for t in ours.tokens}
    assert "resampled" in origins and origins & {"tested", "bonus"}, "the draft should stand and fall here"


@pytest.mark.parametrize("widths", [(VOCAB, VOCAB + 25), (VOCAB + 25, VOCAB)], ids=["wide-target", "wide-draft"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_padded_vocabularies_of_one_tokenizer_work_together(
    tmp_path: Path, widths: tuple[int, int], temperature: float
) -> None:
    draft = save_model(tmp_path / "draft", seed=1, vocab_size=widths[0], num_hidden_layers=1)
    target = save_model(tmp_path / "target", seed=2, vocab_size=widths[1])
    writer = Sprinter.from_pretrained(target=target, draft=draft)
    for how in ({"method": "exact"}, {"method": "lookahead", "scorer": "confidence", "lookahead": 0.0}):
        written = writer.generate("the land", max_new_tokens=30, temperature=temperature, **how)
        assert written.num_tokens > 1
        assert max(t.id for t in written.tokens) < VOCAB, "an id of the padding has no text"
        assert written.audit is not None
    if temperature == 0:
        plain, exact = (writer.generate("the land", max_new_tokens=30, method=m) for m in ("target", "exact"))
        assert [t.id for t in plain.tokens] == [t.id for t in exact.tokens]


def test_a_draft_with_another_tokenizer_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    target = save_model(tmp_path / "target")
    draft = save_model(tmp_path / "draft", num_hidden_layers=1)
    save_tokenizer(draft, [*MERGES[:-1], ("Ġ", "o")])
    writer = Sprinter.from_pretrained(target=target, draft=draft)
    with pytest.raises(ConfigError, match=rf"differ at id {VOCAB - 1}: the draft says 'Ġo', the target\s+'Ġa'"):
        writer.generate("the land", method="exact")


def test_a_draft_that_merges_in_another_order_is_refused(tmp_path: Path) -> None:
    target = save_model(tmp_path / "target")
    draft = save_model(tmp_path / "draft", num_hidden_layers=1)
    # The same vocabulary, but "and" is cut before "an" is joined: some texts get other ids.
    from tests.support.tiny import edit_json

    edit_json(draft / "tokenizer.json", lambda t: t["model"]["merges"].reverse())
    writer = Sprinter.from_pretrained(target=target, draft=draft)
    with pytest.raises(ConfigError, match="differ at merge 0"):
        writer.generate("the land", method="exact")


def test_a_gguf_file_computes_what_its_folder_computes(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "folder", "llama")
    file = write_gguf(tmp_path / "model.gguf", folder)
    plain, packed = (Sprinter.from_pretrained(target=t, backend="hf") for t in (folder, file))
    assert packed.pair.tokenizer.encode("the land") == plain.pair.tokenizer.encode("the land")
    ids = plain.pair.tokenizer.encode("the land and the thin band")
    theirs, ours = (m.forward([Part(m.open(), ids, 3)])[0] for m in (plain.pair.target, packed.pair.target))
    np.testing.assert_allclose(ours.logits, theirs.logits, rtol=0, atol=1e-4)
    written = packed.generate("the land", method="target", max_new_tokens=NEW_TOKENS)
    assert [t.id for t in written.tokens] == reference(folder, packed.pair.tokenizer.encode("the land"))


def write_gguf(file: Path, folder: Path) -> Path:
    """The Llama model of `folder` as a float32 GGUF file."""
    import gguf
    from safetensors.numpy import load_file

    from tests.support.tiny import BOS, EOS, fast_tokenizer

    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(32)
    writer.add_block_count(3)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(VOCAB)
    vocab = sorted(fast_tokenizer().get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([text for text, _ in vocab])
    writer.add_token_types([3 if text in (BOS, EOS) else 1 for text, _ in vocab])
    writer.add_token_merges([f"{a} {b}" for a, b in MERGES])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for name, stored in load_file(folder / "model.safetensors").items():
        value = stored
        if name.startswith("model.layers."):
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(part)
            if heads:  # llama.cpp interleaves the rotary halves of every head
                value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
            writer.add_tensor(f"blk.{layer}.{names[part]}.weight", np.ascontiguousarray(value))
        else:
            writer.add_tensor(top.get(name, "output.weight"), np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


PAIR_PROMPTS = (
    "The three laws of thermodynamics are",
    "Once upon a time, in a village by the sea,",
    "def quicksort(items):",
    "Les chats sont",
    "List of prime numbers: 2, 3, 5,",
)


@pytest.mark.pair
def test_greedy_exact_and_lossless_on_the_default_pair_equal_plain_greedy_decoding() -> None:
    from sprinter.zoo import default_pair

    try:
        default_pair.default_target()
        default_pair.default_draft()
    except BackendError as error:
        pytest.skip(f"the default pair is incomplete: {error}")
    try:
        default_pair.default_verifier()
        lossless: dict[str, Any] = {"method": "lossless"}
    except BackendError:
        lossless = {"method": "lossless", "scorer": "confidence"}
    writer = Sprinter.from_pretrained(weights="float32", backend="hf")
    for prompt in PAIR_PROMPTS:
        plain = writer.generate(prompt, method="target", max_new_tokens=16)
        for how in ({"method": "exact"}, lossless):
            ours = writer.generate(prompt, max_new_tokens=16, **how)
            assert [t.id for t in ours.tokens] == [t.id for t in plain.tokens], (prompt, how)
