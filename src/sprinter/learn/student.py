"""A smaller model of the target's own family: chosen layers copied, embedding and output layer shared and frozen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sprinter.errors import CapabilityError, ConfigError
from sprinter.learn.narrow import narrow_feed_forward


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, list) of a causal LM's decoder layers, by length; CapabilityError if none is found."""
    config: Any = model.config
    count = int(config.get_text_config(decoder=True).num_hidden_layers)
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not found:
        raise CapabilityError(f"{type(model).__name__} has no list of {count} decoder layers: it cannot be distilled")
    return max(found, key=lambda item: sum(p.numel() for p in item[1].parameters()))


def student_config(config: Any, keep: Sequence[int]) -> Any:
    """The target's config with only the layers `keep`; per-layer lists (layer types and the like) are cut alike."""
    total = int(config.num_hidden_layers)
    small = copy.deepcopy(config)
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == total and total > 1 and name != "attention_types":
            setattr(small, name, [value[i] for i in keep])
    if hasattr(config, "attention_types"):  # GPT-Neo says the same thing twice
        small.attention_types = [[[config.attention_layers[i]], 1] for i in keep]
        small.attention_layers = [config.attention_layers[i] for i in keep]
    small.num_hidden_layers = len(keep)
    return small


def default_layers(total: int, count: int) -> tuple[int, ...]:
    """`count` of `total` layers: the first ones and the last, which read the embedding and write for the head."""
    if not 1 <= count <= total:
        raise ConfigError(f"a draft of {count} layers cannot be cut from a target of {total}: choose 1 to {total}")
    return (*range(count - 1), total - 1)


def own_names(model: nn.Module) -> tuple[str, ...]:
    """Parameters a draft owns: those of its layers, and the vectors (norms) outside them.

    Matrices outside the layers (embeddings, positions, projections, output layer) stay the target's.
    """
    layers, _ = decoder_layers(model)
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    of_head = {id(p) for p in head.parameters()} if head is not None else set()
    return tuple(
        name
        for name, p in model.named_parameters()
        if name.startswith(layers + ".") or (p.dim() < 2 and id(p) not in of_head)
    )


def make_student(target: nn.Module, keep: Sequence[int], feed_forward: int | None = None) -> nn.Module:
    """A float32 student of the layers `keep` (ascending indices), in eval mode; only its own parameters want gradients.

    `feed_forward` neurons are left in every layer's gated feed-forward part (None: all). Raises ConfigError on an
    impossible choice, CapabilityError for a family it cannot cut.
    """
    config: Any = target.config
    total = int(config.num_hidden_layers)
    if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= total:
        raise ConfigError(f"layers {list(keep)} must be different, ascending and within 0..{total - 1}")
    prefix, _ = decoder_layers(target)
    renamed = {f"{prefix}.{old}.": f"{prefix}.{new}." for new, old in enumerate(keep)}
    state: dict[str, Tensor] = {}
    for name, value in target.state_dict().items():
        if not name.startswith(prefix + "."):
            state[name] = value
            continue
        layer = ".".join(name.split(".")[: prefix.count(".") + 2]) + "."
        if layer in renamed:
            state[renamed[layer] + name.removeprefix(layer)] = value
    small = student_config(config, keep)
    if feed_forward is not None:
        state, small.intermediate_size = narrow_feed_forward(state, feed_forward), feed_forward
    student: nn.Module = type(target)(small)
    student.load_state_dict(state)
    device = next(target.parameters()).device
    student = student.to(device=device, dtype=torch.float32).eval()  # eval: dropout would only blur the teacher
    own = set(own_names(student))
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in own)
    return student


def own_state(student: nn.Module) -> dict[str, Tensor]:
    """The tensors a draft folder stores: own parameters, and buffers inside layers that the state dict has."""
    own = set(own_names(student))
    return {name: p.detach() for name, p in student.named_parameters() if name in own}


def shared_names(student: nn.Module) -> tuple[str, ...]:
    """The tensors a draft folder borrows from the target, under the target's names."""
    own = set(own_names(student))
    return tuple(name for name, _ in student.named_parameters() if name not in own)
