"""What the fast backend must know of a checkpoint: its shape, its rotary frequencies, and whether it is understood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from sprinter.door import Door
from sprinter.errors import BackendError
from sprinter.models.fast.fields import MOST, ConfigFile, with_defaults

MODEL_TYPES: Final = ("llama", "mistral", "qwen2", "qwen3")
_ROPE_TYPES: Final = ("default", "linear", "llama3")
_DOOR: Final = Door(advice="copy config.json again or use --backend hf")


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
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False  # of queries and keys

    @property
    def group_size(self) -> int:
        """Query heads that share one key-value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def qkv_rows(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


def _rope_parameters(config: ConfigFile) -> dict[str, Any]:
    # transformers 5 writes one `rope_parameters`; version 4 wrote `rope_theta` beside an optional `rope_scaling`.
    merged: dict[str, Any] = {"rope_theta": config.rope_theta}
    for part in (config.rope_scaling, config.rope_parameters):
        merged.update({key: value for key, value in part.told().items() if value is not None})
    merged["rope_type"] = merged.get("rope_type") or merged.get("type") or "default"
    return merged


def _window(config: ConfigFile) -> int | None:
    """How many tokens a layer with a sliding window sees; None where every layer sees all of them."""
    slides = config.sliding_window is not None and config.use_sliding_window
    if not slides:
        return None
    if config.layer_types is not None:
        slides = "sliding_attention" in config.layer_types
    elif config.max_window_layers is not None:
        slides = config.max_window_layers < config.num_hidden_layers
    return config.sliding_window if slides else None


def objection(config: Mapping[str, Any]) -> str | None:
    """Why a model with this config.json is better left to transformers, in words; None for no reason."""
    if config.get("model_type") not in MODEL_TYPES:
        return f"model type {str(config.get('model_type'))[:40]!r} is none of {', '.join(MODEL_TYPES)}"
    try:
        known = with_defaults(_DOOR, config, "config.json")
    except BackendError as error:
        return str(error)
    window = _window(known)
    if window is not None and window < known.max_position_embeddings:
        return f"it attends within a window of {window} of its {known.max_position_embeddings} tokens"
    return _unfit(known)


def _unfit(config: ConfigFile) -> str | None:
    """What of a config the fast backend cannot compute, in words."""
    rope = _rope_parameters(config)
    if rope["rope_type"] not in _ROPE_TYPES:
        return f"rope type {str(rope['rope_type'])[:40]!r} is none of {', '.join(_ROPE_TYPES)}"
    if rope.get("partial_rotary_factor", config.partial_rotary_factor) != 1.0:
        return "it rotates only a part of each head"
    if config.hidden_act != "silu":
        return f"activation {config.hidden_act[:40]!r} is not 'silu'"
    if config.quantization_config:
        return "its weights are already quantised"
    return None


def supports(config: Mapping[str, Any]) -> bool:
    """Whether the fast backend computes a model with this config.json as transformers does, at every length."""
    return objection(config) is None


def architecture(config: Mapping[str, Any], name: str = "the model") -> Architecture:
    """The architecture a config.json describes; BackendError naming what is not understood or cannot be.

    A model whose layers see a window is an ordinary one inside it, so the window becomes the context length.
    """
    if config.get("model_type") not in MODEL_TYPES:
        raise BackendError(f"the fast backend cannot run {name}: {objection(config)} (try --backend hf)")
    known = with_defaults(_DOOR, config, f"config.json of {name}")
    reason = _unfit(known)
    if reason is not None:
        raise BackendError(f"the fast backend cannot run {name}: {reason} (try --backend hf)")
    num_kv_heads = known.num_key_value_heads or known.num_attention_heads
    head_dim = known.head_dim or known.hidden_size // known.num_attention_heads
    arch = Architecture(
        vocab_size=known.vocab_size,
        hidden_size=known.hidden_size,
        intermediate_size=known.intermediate_size,
        num_layers=known.num_hidden_layers,
        num_heads=known.num_attention_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        norm_eps=known.rms_norm_eps,
        context_length=min(known.max_position_embeddings, _window(known) or MOST.context),
        tied=known.tie_word_embeddings,
        rope=_rope_parameters(known),
        # Qwen2 has these biases without saying so, and only these.
        qkv_bias=known.attention_bias or known.model_type == "qwen2",
        out_bias=known.attention_bias and known.model_type != "qwen2",
        mlp_bias=known.mlp_bias and known.model_type == "llama",
        head_norms=known.model_type == "qwen3",
    )
    _require_sound(arch, name)
    return arch


def _require_sound(arch: Architecture, name: str) -> None:
    """BackendError naming the first number no model can have; everything computed later trusts these."""
    wrong = next(
        (
            problem
            for problem, found in {
                f"{arch.num_heads} heads are no multiple of its {arch.num_kv_heads} key heads": arch.num_heads
                % arch.num_kv_heads,
                f"the head dimension {arch.head_dim} is odd, zero or above {MOST.head_dim}": arch.head_dim % 2
                or not 0 < arch.head_dim <= MOST.head_dim,
                f"{arch.num_heads} heads of {arch.head_dim} are too wide": arch.num_heads * arch.head_dim > MOST.width,
            }.items()
            if found
        ),
        None,
    )
    if wrong is not None:
        raise _DOOR.refuse(f"config.json of {name} describes no model: {wrong}")
    rotary_frequencies(arch)  # raises where rotary parameters are missing or make no sense


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
    try:
        frequencies = 1.0 / (float(arch.rope["rope_theta"]) ** exponents)  # [head_dim / 2]
        if arch.rope["rope_type"] == "linear":
            frequencies = frequencies / float(arch.rope["factor"])
        if arch.rope["rope_type"] == "llama3":
            frequencies = _llama3_scaled(frequencies, arch.rope)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise _DOOR.refuse(f"rope parameters of type {arch.rope['rope_type']!r} are incomplete: {error!r}") from error
    if not bool(torch.isfinite(frequencies).all()):
        raise _DOOR.refuse(f"rope parameters of type {arch.rope['rope_type']!r} make no finite frequencies")
    return frequencies


def rotary_table(arch: Architecture, length: int) -> Tensor:
    """exp(i * position * frequency) of the first `length` positions, complex64 [length, head_dim / 2]."""
    angles = torch.outer(torch.arange(length, dtype=torch.float32), rotary_frequencies(arch))
    return torch.polar(torch.ones_like(angles), angles)  # [length, head_dim / 2]


def interleave_rows(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a q or k projection (or its bias), from halves to adjacent pairs.

    Rotating then is one complex product; queries and keys are permuted alike, so their products stay what they were.
    """
    half = weight.shape[0] // num_heads // 2
    tail = weight.shape[1:]
    return weight.view(num_heads, 2, half, *tail).transpose(1, 2).reshape(weight.shape)
