"""The fields of a config.json that the fast backend reads, their types and bounds, and what a missing one means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from sprinter.door import Door


@dataclass(frozen=True, slots=True)
class _Most:
    """Above these there is no model, only a way to exhaust memory: the largest known ones have a tenth of each."""

    vocab: int = 1 << 22
    width: int = 1 << 17
    inter: int = 1 << 19
    layers: int = 1024
    heads: int = 4096
    head_dim: int = 512  # what the compiled pass holds on its stack
    context: int = 1 << 24  # tokens


MOST: Final = _Most()
_Positive = Annotated[float, Meta(gt=0, le=1e12)]


class Rope(msgspec.Struct, frozen=True):
    """`rope_parameters`, or `rope_scaling` of older files."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: _Positive | None = None
    factor: _Positive | None = None
    low_freq_factor: _Positive | None = None
    high_freq_factor: _Positive | None = None
    original_max_position_embeddings: _Positive | None = None
    partial_rotary_factor: _Positive | None = None

    def told(self) -> dict[str, Any]:
        """The fields by name."""
        return msgspec.structs.asdict(self)


class ConfigFile(msgspec.Struct):
    """config.json of a Llama-like model."""

    model_type: str
    vocab_size: Annotated[int, Meta(ge=1, le=MOST.vocab)]
    hidden_size: Annotated[int, Meta(ge=1, le=MOST.width)]
    intermediate_size: Annotated[int, Meta(ge=1, le=MOST.inter)]
    num_hidden_layers: Annotated[int, Meta(ge=1, le=MOST.layers)]
    num_attention_heads: Annotated[int, Meta(ge=1, le=MOST.heads)]
    max_position_embeddings: Annotated[int, Meta(ge=1, le=MOST.context)]
    rms_norm_eps: Annotated[float, Meta(ge=0, le=1)] = 1e-6
    num_key_value_heads: Annotated[int, Meta(ge=1, le=MOST.heads)] | None = None
    head_dim: Annotated[int, Meta(ge=1, le=MOST.head_dim)] | None = None
    rope_theta: _Positive = 10000.0
    rope_scaling: Rope = Rope()
    rope_parameters: Rope = Rope()
    partial_rotary_factor: _Positive = 1.0
    hidden_act: str = "silu"
    quantization_config: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: Annotated[int, Meta(ge=1, le=MOST.context)] | None = None
    use_sliding_window: bool = True
    max_window_layers: Annotated[int, Meta(ge=0, le=MOST.layers)] | None = None
    layer_types: list[str] | None = None


# What transformers 5 takes a missing key for; a test compares.
_COMMON: Final[Mapping[str, Any]] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": {"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048},
    "mistral": {
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "qwen2": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
}


def with_defaults(door: Door, config: Mapping[str, Any], where: str) -> ConfigFile:
    """The fields of `config`, those it lacks as its model type has them; refused by name where one cannot be."""
    # transformers writes null for "not set" in some versions.
    told = {key: value for key, value in config.items() if value is not None or key in ("sliding_window",)}
    return door.as_kind({**_COMMON, **_DEFAULTS.get(str(config.get("model_type")), {}), **told}, ConfigFile, where)
