"""Attention of one new token per row, for a target that writes many rows at once on a CPU.

torch's fused kernel packs keys and values anew for every row and head; with one query each, that is nearly all it does
(some ten times the time of two batched products in float32 on a cache that is not copied as it grows, for 128 rows of
100 tokens on two cores).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

NAME: Final = "sprinter_step"
FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")  # plain attention: scaled products, no soft cap, no sinks


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values in float32, in tensors made once with room for all that will be written."""

    is_initialized: bool

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [rows, heads, new, dim]; views of everything so far."""
        if not self.is_initialized:
            rows, heads, _, dim = key_states.shape
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self._all_keys = torch.empty(rows, heads, self._room, dim)
            self._all_values = torch.empty(rows, heads, self._room, dim)
        end = self._length + key_states.shape[2]
        self._all_keys[:, :, self._length : end] = key_states
        self._all_values[:, :, self._length : end] = value_states
        self._length = end
        self.keys, self.values = self._all_keys[:, :, :end], self._all_values[:, :, :end]
        return self.keys, self.values


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """transformers' attention function: query [rows, heads, new, dim] -> [rows, new, heads, dim]."""
    if query.shape[2] != 1 or attention_mask is not None:
        key, value = key.to(query.dtype), value.to(query.dtype)
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return found
    rows, heads, _, dim = query.shape
    # Query heads that share a key head are the rows of one product.
    packed = query.float().view(rows, key.shape[1], heads // key.shape[1], dim)
    scores = packed @ key.transpose(2, 3) * more["scaling"]  # [rows, kv_heads, group, seq]
    mixed = torch.softmax(scores, dim=-1) @ value  # [rows, kv_heads, group, dim]
    return mixed.view(rows, 1, heads, dim).to(query.dtype), None


def fits(model: Any) -> bool:
    """Whether this model's steps may run here: on a CPU, of a known family, every layer over the whole context."""
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    return model.device.type == "cpu" and model.config.model_type in FAMILIES and plain


def install(model: Any) -> None:
    """Let `model` attend by this module; only with a cache from `roomy_cache`."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(NAME)


def roomy_cache(model: Any, room: int) -> DynamicCache:
    """A cache for `room` tokens per row."""
    cache = DynamicCache(config=model.config)
    cache.layers = [_RoomyLayer(room) for _ in cache.layers]
    return cache
