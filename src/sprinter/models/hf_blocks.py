"""Transformers models with attention or MLP blocks left out, on the same weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from copy import copy
from typing import Any

from torch import Tensor, nn

_KINDS = ("self_attn", "mlp")  # block 2 i and block 2 i + 1 of layer i


class _NoAttention(nn.Module):
    """Adds nothing to the residual stream, and nothing to the cache."""

    def forward(self, hidden_states: Tensor, *_args: Any, **_options: Any) -> tuple[Tensor, None]:
        return hidden_states.new_zeros(hidden_states.shape), None


class _NoMLP(nn.Module):
    """Adds nothing to the residual stream."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states.new_zeros(hidden_states.shape)


def has_blocks(model: Any) -> bool:
    """Whether every layer is an attention and an MLP by the names most architectures give them."""
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", ())
    parts = [getattr(layer, kind, None) for layer in layers for kind in _KINDS]
    known = len(parts) > 0 and all(isinstance(part, nn.Module) for part in parts)
    return known and any(part is decoder for part in model.children())


def block_of(model: Any, block: int) -> nn.Module:
    """The module that is block number `block`."""
    found: nn.Module = getattr(model.get_decoder().layers[block // 2], _KINDS[block % 2])
    return found


def without_blocks(model: Any, left_out: Collection[int]) -> Any:
    """A twin of `model` on the same modules; its head is one more, as hooks on the model's are the model's own."""
    twin, decoder = copy_of(model), copy_of(model.get_decoder())
    _replace(twin, model.get_decoder(), decoder)
    decoder.layers = nn.ModuleList(decoder.layers)
    for block in left_out:
        layer = decoder.layers[block // 2] = copy_of(decoder.layers[block // 2])
        setattr(layer, _KINDS[block % 2], _NoMLP() if block % 2 else _NoAttention())
    head = copy_of(model.get_output_embeddings())
    head._forward_pre_hooks = OrderedDict()
    twin.set_output_embeddings(head)
    return twin.eval()


def copy_of(module: Any) -> Any:
    """The module itself, not what is in it, a second time."""
    twin = copy(module)
    twin._modules = dict(module._modules)
    return twin


def _replace(module: Any, old: Any, new: Any) -> None:
    """Put `new` in the place of `old`, which stands right in `module`."""
    name = next(name for name, part in module._modules.items() if part is old)
    module._modules[name] = new
