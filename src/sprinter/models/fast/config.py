"""What the fast backend must know of a checkpoint: its shape, its rotary frequencies, and whether it is understood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sprinter.errors import BackendError

MODEL_TYPES: Final = ("llama", "mistral", "qwen2", "qwen3")
_ROPE_TYPES: Final = ("default", "linear", "llama3")
_UNSHARED: Final = 16384  # numbers; torch shares out an operation from twice as many on


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that fix a Llama-family forward pass."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    context_length: int  # tokens
    tied: bool
    rope: Mapping[str, Any]

    @property
    def group_size(self) -> int:
        """Query heads that share one key-value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def qkv_rows(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


def _rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    # transformers 5 writes one `rope_parameters`; version 4 wrote `rope_theta` beside an optional `rope_scaling`.
    merged: dict[str, Any] = {"rope_theta": config.get("rope_theta", 10000.0)}
    merged.update(config.get("rope_scaling") or {})
    merged.update(config.get("rope_parameters") or {})
    merged["rope_type"] = merged.get("rope_type") or merged.get("type") or "default"
    return merged


def _context_length(config: Mapping[str, Any]) -> int:
    length = int(config.get("max_position_embeddings", 2048))
    window = config.get("sliding_window")
    slides = config.get("use_sliding_window", config.get("model_type") == "mistral")
    # Inside its window a sliding-window model is an ordinary one, so the window becomes the context length.
    return min(length, int(window)) if window and slides else length


def objection(config: Mapping[str, Any]) -> str | None:
    """Why the fast backend cannot run a model with this config.json, in words; None when it can."""
    if config.get("model_type") not in MODEL_TYPES:
        return f"model type {config.get('model_type')!r} is none of {', '.join(MODEL_TYPES)}"
    rope_type = _rope_parameters(config)["rope_type"]
    if rope_type not in _ROPE_TYPES:
        return f"rope type {rope_type!r} is none of {', '.join(_ROPE_TYPES)}"
    if float(_rope_parameters(config).get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))) != 1.0:
        return "it rotates only a part of each head"
    if config.get("hidden_act", "silu") != "silu":
        return f"activation {config.get('hidden_act')!r} is not 'silu'"
    if config.get("quantization_config"):
        return "its weights are already quantised"
    return None


def supports(config: Mapping[str, Any]) -> bool:
    """Whether the fast backend runs a model with this config.json."""
    return objection(config) is None


def architecture(config: Mapping[str, Any], name: str = "the model") -> Architecture:
    """The architecture a config.json describes; BackendError naming what is not understood."""
    reason = objection(config)
    if reason is not None:
        raise BackendError(f"the fast backend cannot run {name}: {reason} (try --backend hf)")
    try:
        num_heads = int(config["num_attention_heads"])
        return Architecture(
            vocab_size=int(config["vocab_size"]),
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=num_heads,
            num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // num_heads),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            context_length=_context_length(config),
            tied=bool(config.get("tie_word_embeddings", False)),
            rope=_rope_parameters(config),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BackendError(f"config.json of {name} is incomplete or malformed: {error!r}") from error


def _llama3_scaled(frequencies: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Llama 3.1's scaling: long waves slowed by `factor`, short ones kept, a smooth passage between."""
    factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    old_length = float(rope["original_max_position_embeddings"])
    waves_in_old_context = old_length * frequencies / (2 * math.pi)  # [head_dim / 2]
    smooth = ((waves_in_old_context - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies * (smooth + (1 - smooth) / factor)


def rotary_frequencies(arch: Architecture) -> Tensor:
    """Radians per position of each pair of a head's dimensions, [head_dim / 2]; BackendError on missing parameters."""
    exponents = torch.arange(0, arch.head_dim, 2, dtype=torch.int64).to(torch.float32) / arch.head_dim
    frequencies = 1.0 / (float(arch.rope["rope_theta"]) ** exponents)  # [head_dim / 2]
    try:
        if arch.rope["rope_type"] == "linear":
            return frequencies / float(arch.rope["factor"])
        if arch.rope["rope_type"] == "llama3":
            return _llama3_scaled(frequencies, arch.rope)
    except (KeyError, TypeError, ValueError) as error:
        raise BackendError(f"rope parameters of type {arch.rope['rope_type']!r} are incomplete: {error!r}") from error
    return frequencies


def rotary_table(arch: Architecture, length: int) -> Tensor:
    """exp(i * position * frequency) of the first `length` positions, complex64 [length, head_dim / 2]."""
    frequencies = rotary_frequencies(arch)
    table = np.empty((length, len(frequencies)), np.complex64)
    # In stretches that torch does not share among threads: in a forked process it would wait for threads that are gone.
    step = max(1, _UNSHARED // len(frequencies))
    for begin in range(0, length, step):
        angles = torch.outer(torch.arange(begin, min(length, begin + step), dtype=torch.float32), frequencies)
        table[begin : begin + step] = torch.polar(torch.ones_like(angles), angles).numpy()
    return torch.from_numpy(table)


def interleave_rows(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a q or k projection (or its bias), from halves to adjacent pairs.

    Rotating then is one complex product; queries and keys are permuted alike, so their products stay what they were.
    """
    half = weight.shape[0] // num_heads // 2
    tail = weight.shape[1:]
    return weight.view(num_heads, 2, half, *tail).transpose(1, 2).reshape(weight.shape)
