"""A checkpoint's tensors -> the fused, quantised tensors the fast backend computes with, cached on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sprinter.errors import BackendError, ConfigError
from sprinter.models.fast.config import Architecture, interleave_rows
from sprinter.models.fast.quant import (
    GROUP,
    DenseLinear,
    Int4Linear,
    Int8Linear,
    Linear,
    dequantise_int4,
    pack_blocks,
    pack_group_values,
    pack_int4,
    quantise_int4,
    quantise_int8,
    quantise_int8_groups,
)
from sprinter.models.fast.shapes import expected, head_name, require_shapes
from sprinter.writing import clear_old, whole

FORMATS: Final = ("int4", "int8", "bfloat16", "float32")
_VERSION: Final = "3"  # of the cached layout; raise it whenever a cached file of old would be read wrongly
LAYOUT: Final = f"v{_VERSION}"  # for a certificate: what was quantised otherwise is another model
HEAD: Final = "head"
NATIVE: Final = "native"  # marks the tensors the compiled forward pass reads
Read = Callable[[str], Tensor]
Matrix = tuple[str, Tensor, Tensor | None]  # name, weight, bias


class Source(Protocol):
    """The tensors of a checkpoint under transformers' names."""

    names: frozenset[str]

    def read(self, name: str) -> Tensor: ...


def fused_matrices(read: Read, names: frozenset[str], arch: Architecture) -> Iterator[Matrix]:
    """(name, weight, bias or None) of every matrix, projections that read the same input fused into one.

    `read` gives a tensor of the checkpoint by its transformers name, `names` are the names there are. Queries and keys
    come out in adjacent rotary pairs.
    """
    for i in range(arch.num_layers):
        attn, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        heads = {"q_proj": arch.num_heads, "k_proj": arch.num_kv_heads}

        def part(module: str, kind: str, heads: dict[str, int] = heads) -> Tensor | None:
            if f"{module}.{kind}" not in names:
                return None
            tensor, short = read(f"{module}.{kind}").float(), module.rsplit(".", 1)[1]
            return interleave_rows(tensor, heads[short]) if short in heads else tensor

        for name, modules in (
            ("qkv", [f"{attn}.{p}_proj" for p in "qkv"]),
            ("out", [f"{attn}.o_proj"]),
            ("gate_up", [f"{mlp}.gate_proj", f"{mlp}.up_proj"]),
            ("down", [f"{mlp}.down_proj"]),
        ):
            weights, biases = [part(m, "weight") for m in modules], [part(m, "bias") for m in modules]
            missing = [m for m, weight in zip(modules, weights, strict=True) if weight is None]
            if missing:
                raise BackendError(f"the checkpoint has no tensor {missing[0]}.weight: its weights are incomplete")
            bias = None if None in biases else torch.cat([b for b in biases if b is not None])
            yield f"{i}.{name}", torch.cat([w for w in weights if w is not None]), bias


def norm_vectors(read: Read, names: frozenset[str], arch: Architecture) -> dict[str, Tensor]:
    """Weights of all RMS norms, float32, by the runner's names; q and k norms in adjacent rotary pairs."""
    norms = {"norm": read("model.norm.weight").float()}
    for i in range(arch.num_layers):
        prefix = f"model.layers.{i}"
        norms[f"{i}.attn_norm"] = read(f"{prefix}.input_layernorm.weight").float()
        norms[f"{i}.mlp_norm"] = read(f"{prefix}.post_attention_layernorm.weight").float()
        for short in ("q_norm", "k_norm"):
            name = f"{prefix}.self_attn.{short}.weight"
            if name in names:
                norms[f"{i}.{short}"] = interleave_rows(read(name).float(), 1)
    return norms


def quantised_parts(name: str, weight: Tensor, weights: str) -> dict[str, Tensor]:
    """The tensors that stand for one matrix in format `weights`, keyed `name.part`."""
    if weights == "bfloat16":
        return {f"{name}.weight": weight.bfloat16()}
    if weights == "float32":
        return {f"{name}.weight": weight.float().contiguous()}
    # The head's errors go straight into the law, so it keeps eight bits where the blocks have four.
    if weights == "int8" or name == HEAD:
        codes, row_scales = quantise_int8(weight)
        parts = {f"{name}.weight": codes, f"{name}.scales": row_scales}
        return parts if name == HEAD else parts | {f"{name}.wide": codes.float().mul_(row_scales.float()[:, None])}
    nibbles, scale, zero = quantise_int4(weight)
    packed, scales = pack_int4(nibbles, scale, zero)
    return {f"{name}.packed": packed, f"{name}.scales": scales, f"{name}.wide": dequantise_int4(nibbles, scale, zero)}


def native_parts(name: str, weight: Tensor, weights: str) -> dict[str, Tensor]:
    """The tensors the compiled forward pass reads for one matrix, keyed `name.native_part`."""
    if weights == "int8" or name == HEAD:
        codes, scales = quantise_int8_groups(weight)
        return {f"{name}.{NATIVE}_codes": pack_blocks(codes, 8), f"{name}.{NATIVE}_scales": pack_group_values(scales)}
    nibbles, scale, zero = quantise_int4(weight, exact_scales=True)
    return {
        f"{name}.{NATIVE}_codes": pack_blocks(nibbles, 4),
        f"{name}.{NATIVE}_scales": pack_group_values(scale),
        f"{name}.{NATIVE}_minimums": pack_group_values(zero - 8 * scale),
    }


def linear(tensors: Mapping[str, Tensor], name: str) -> Linear:
    """The product with matrix `name`, from the tensors `prepare` made."""
    bias = tensors.get(f"{name}.bias")
    if f"{name}.packed" in tensors:
        return Int4Linear(tensors[f"{name}.packed"], tensors[f"{name}.scales"], tensors[f"{name}.wide"], bias)
    if f"{name}.scales" in tensors:
        return Int8Linear(tensors[f"{name}.weight"], tensors[f"{name}.scales"], tensors.get(f"{name}.wide"), bias)
    return DenseLinear(tensors[f"{name}.weight"], bias)


Parts = Callable[[str, Tensor, str], dict[str, Tensor]]


def open_head(source: Source, arch: Architecture, name: str, head_ids: Tensor | None) -> Tensor:
    """The output head of model `name`, [width, hidden], its rows `head_ids` where given.

    Every tensor has been compared with the config before: BackendError naming the first that does not fit.
    """
    require_shapes(arch, source.names, source.read, name)
    if head_ids is not None and int(head_ids[-1]) >= arch.vocab_size:
        raise BackendError(f"{name} has head tokens beyond its {arch.vocab_size} ids: copy it again")
    head = source.read(head_name(arch, source.names))
    return head if head_ids is None else head[head_ids]


def check_widths(arch: Architecture, weights: str) -> None:
    """ConfigError if a matrix of this shape does not divide into the groups of a quantised format."""
    widths = {
        "hidden_size": arch.hidden_size,
        "intermediate_size": arch.intermediate_size,
        "the heads' width": arch.num_heads * arch.head_dim,
    }
    odd = next((name for name, width in widths.items() if width % GROUP), None)
    if weights in ("int4", "int8") and odd is not None:
        raise ConfigError(
            f"{weights} needs rows of a multiple of {GROUP}, {odd} is {widths[odd]}: use --weights float32"
        )


def prepare(source: Source, arch: Architecture, head: Tensor, weights: str, parts: Parts) -> dict[str, Tensor]:
    """All tensors of a runner in format `weights`, except the embedding.

    `head` is [width, hidden]; `parts` is `quantised_parts` or `native_parts`.
    """
    # What a checkpoint holds beyond the table is no part of the model.
    names = source.names & expected(arch).keys()
    tensors = norm_vectors(source.read, names, arch)
    for name, weight, bias in fused_matrices(source.read, names, arch):
        tensors.update(parts(name, weight, weights))
        if bias is not None:
            tensors[f"{name}.bias"] = bias
    tensors.update(parts(HEAD, head, weights))
    return tensors


Sound = Callable[[Mapping[str, Tensor]], bool]


def cached(
    folder: Path, fingerprint: str, kind: str, make: Callable[[], dict[str, Tensor]], sound: Sound | None = None
) -> dict[str, Tensor]:
    """`make()`, or what it made before: memory-mapped from a file in `folder` named after `fingerprint` and `kind`.

    A file is made again where it is damaged or foreign, or where `sound` says that it is not what the runner reads. A
    folder that cannot be written only costs the time of `make`.
    """
    layout = f"{kind}-v{_VERSION}"
    path = folder / f"{fingerprint[:20]}-{layout}.safetensors"
    marks = {"fingerprint": fingerprint, "layout": layout}
    found = _read_cached(path, marks)
    if found is not None and (sound is None or sound(found)):
        return found
    tensors = {name: tensor.contiguous() for name, tensor in make().items()}
    with suppress(OSError, SafetensorError):
        folder.mkdir(parents=True, exist_ok=True)
        clear_old(folder)
        with whole(path) as beside:
            save_file(tensors, str(beside), metadata={**marks, "sha256": _digest(tensors)})
        return _read_cached(path, marks) or tensors
    return tensors


def _read_cached(path: Path, marks: Mapping[str, str]) -> dict[str, Tensor] | None:
    """The file's tensors, mapped; None if it is missing, damaged by as little as a bit, or made from other weights."""
    try:
        with safe_open(str(path), framework="pt") as stored:
            told = stored.metadata() or {}
            if {key: told.get(key) for key in marks} != dict(marks):
                return None
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError):
        return None
    return tensors if told.get("sha256") == _digest(tensors) else None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of names, shapes, formats and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_format(weights: str, device: str) -> None:
    """ConfigError if the fast backend has no format `weights` on `device`."""
    if weights not in FORMATS:
        raise ConfigError(f"weights {weights!r} are none of {', '.join(FORMATS)}")
    if device != "cpu" and weights in ("int4", "int8"):
        raise ConfigError(f"weights {weights!r} are for the CPU: use --weights bfloat16 on {device}")
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} needs a CUDA GPU, and torch finds none: use --device cpu")
