"""A Llama-family GGUF file -> a plain transformers folder, value for value."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprinter.errors import BackendError
from sprinter.writing import whole_folder
from sprinter.zoo.gguf_header import GgufFile, read_gguf

FloatArray = NDArray[np.float32]

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL_TOKEN = 3  # llama.cpp's token type of special tokens


def unpermute_rope(weight: FloatArray, num_heads: int) -> FloatArray:
    """Rows of a q or k projection from llama.cpp's interleaved rotary order back to halves (Llama's own order)."""
    half = weight.shape[0] // num_heads // 2
    pairs = weight.reshape(num_heads, half, 2, weight.shape[1])  # [head, pair, even/odd, in]
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))


def tensor_name(gguf_name: str) -> str:
    """The transformers name of a GGUF tensor of a Llama model; BackendError if there is none."""
    if gguf_name in _TOP_NAMES:
        return _TOP_NAMES[gguf_name]
    parts = gguf_name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    raise BackendError(f"GGUF tensor {gguf_name!r} is not one of a Llama model: convert the file by other means")


def llama_config(fields: dict[str, Any], tied: bool) -> dict[str, Any]:
    """config.json of a Llama model from the GGUF header."""
    hidden = int(fields["llama.embedding_length"])
    heads = int(fields["llama.attention.head_count"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": int(fields["llama.feed_forward_length"]),
        "num_hidden_layers": int(fields["llama.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(fields["llama.attention.head_count_kv"]),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        # The header holds a float32: 1e-5 arrives as 9.9999997e-06.
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "max_position_embeddings": int(fields["llama.context_length"]),
        "vocab_size": int(fields["llama.vocab_size"]),
        "rope_theta": float(fields["llama.rope.freq_base"]),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(fields["llama.rope.freq_base"])},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": int(fields["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(fields["tokenizer.ggml.eos_token_id"]),
        "pad_token_id": int(fields["tokenizer.ggml.padding_token_id"]),
        "dtype": "float32",
    }


def write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template of a byte-level BPE with single digits (`smollm`)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415 - slow import
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - slow import

    pre = fields.get("tokenizer.ggml.pre")
    if fields.get("tokenizer.ggml.model") != "gpt2" or pre != "smollm":
        raise BackendError(
            f"GGUF tokenizer {pre!r} is unknown here: only gpt2-style BPE with pre 'smollm' is converted"
        )
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    special = [AddedToken(t, special=True) for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL_TOKEN]
    bpe.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        model_max_length=int(fields["llama.context_length"]),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = fields["tokenizer.chat_template"]
    fast.save_pretrained(str(folder))


def read_tensors(source: GgufFile) -> dict[str, FloatArray]:
    """All tensors, dequantised to float32, under transformers' names and in its row order."""
    heads = {
        "attn_q": int(source.fields["llama.attention.head_count"]),
        "attn_k": int(source.fields["llama.attention.head_count_kv"]),
    }
    tensors: dict[str, FloatArray] = {}
    for name in source.tensors:
        values = source.tensor(name)
        kind = name.split(".")[2] if name.startswith("blk.") else ""
        if kind in heads:
            values = unpermute_rope(values, heads[kind])
        tensors[tensor_name(name)] = np.ascontiguousarray(values)
    return tensors


def convert(gguf_file: Path, folder: Path, provenance: dict[str, str]) -> None:
    """Write `folder` from `gguf_file`: config, tokenizer, float32 safetensors holding exactly the file's values.

    The folder appears whole or not at all; a second process doing the same is harmless. Raises BackendError when the
    file is no Llama GGUF or the disk is full.
    """
    from safetensors.numpy import save_file  # noqa: PLC0415

    source = read_gguf(gguf_file)
    if source.fields.get("general.architecture") != "llama":
        raise BackendError(
            f"{gguf_file} holds a {source.fields.get('general.architecture')!r} model: only 'llama' is converted"
        )
    try:
        with whole_folder(folder) as beside:
            tensors = read_tensors(source)
            tied = "lm_head.weight" not in tensors
            config = json.dumps(llama_config(dict(source.fields), tied), indent=2)
            (beside / "config.json").write_text(config + "\n")
            write_tokenizer(dict(source.fields), beside)
            save_file(tensors, str(beside / "model.safetensors"), metadata={"format": "pt", **provenance})
            _rename_unless_there(beside, folder)
    except KeyError as error:
        raise BackendError(f"{gguf_file} lacks the key {error}: download it again") from None
    except OSError as error:
        raise BackendError(f"cannot write {folder} ({error}): free some space or set SPRINTER_CACHE") from error


def _rename_unless_there(beside: Path, folder: Path) -> None:
    """Move a finished folder into place; if another process was first, its equal folder stays."""
    try:
        os.rename(beside, folder)  # noqa: PTH104 - Path.rename has the same semantics but hides the OSError kind
    except OSError:
        if not (folder / "model.safetensors").is_file():
            raise
