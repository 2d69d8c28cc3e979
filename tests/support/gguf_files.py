"""Tiny GGUF files as llama.cpp's converter writes them, from models of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from tests.support.tiny import MERGES, build_model, fast_tokenizer

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    tail = weight.shape[1:]
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *tail).swapaxes(1, 2).reshape(weight.shape)


def llama3_factors(config: Any) -> np.ndarray:
    """What the converter stores in rope_freqs.weight for Llama 3.1's scaling."""
    rope = config.rope_parameters
    half = config.head_dim // 2
    frequencies = rope["rope_theta"] ** -(np.arange(half) / half)
    waves = 2 * np.pi / frequencies
    low, high = (rope["original_max_position_embeddings"] / rope[f"{n}_freq_factor"] for n in ("low", "high"))
    smooth = (rope["original_max_position_embeddings"] / waves - rope["low_freq_factor"]) / (
        rope["high_freq_factor"] - rope["low_freq_factor"]
    )
    middle = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return np.where(waves < high, 1.0, np.where(waves > low, rope["factor"], middle)).astype(np.float32)


def write_gguf(
    file: Path, family: str = "llama", keys: dict[str, Any] | None = None, seed: int = 3, **changes: Any
) -> Any:
    """Write the file; the model it was made from. `keys` are further keys (str, int or float)."""
    model = build_model(family, seed, **changes)
    config = model.config
    writer = gguf.GGUFWriter(str(file), family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    if family == "qwen3":
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    _add_tokenizer(writer)
    for key, value in (keys or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(key, value)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.to(torch.float32).numpy()
        place = NAMES.get(name)
        if place is None:
            _, _, layer, *kind, end = name.split(".")
            place = f"blk.{layer}.{NAMES['.'.join(kind)]}.{end}"
            short = NAMES[".".join(kind)]
            if family == "llama" and short in heads:
                values = _permuted(values, heads[short])
        writer.add_tensor(place, np.ascontiguousarray(values))
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    core = fast_tokenizer()
    pieces = sorted(core.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_types([3 if i < 2 else 1 for _, i in pieces])
    writer.add_token_merges([f"{a} {b}" for a, b in MERGES])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("[{{ messages[0].content }}]")
