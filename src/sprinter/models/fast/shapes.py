"""Which tensors a config.json promises and how large each is: compared before anything is computed with them.

The compiled pass reads memory by these numbers and looks at nothing itself, so nothing reaches it that was not compared
here: neither a checkpoint's tensors nor those a cached file holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from sprinter.door import one_line
from sprinter.errors import BackendError
from sprinter.models.fast.config import Architecture
from sprinter.models.fast.quant import BLOCK, GROUP

EMBED: Final = "model.embed_tokens.weight"
UNTIED: Final = "lm_head.weight"
_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.")
_NUMBERS: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
Shape = tuple[int, ...]


def expected(arch: Architecture) -> dict[str, Shape]:
    """Shapes of all tensors of a checkpoint by transformers' names, the output head left out."""
    hidden, inter = arch.hidden_size, arch.intermediate_size
    queries, keys = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
    matrices = {
        "self_attn.q_proj": (queries, hidden, arch.qkv_bias),
        "self_attn.k_proj": (keys, hidden, arch.qkv_bias),
        "self_attn.v_proj": (keys, hidden, arch.qkv_bias),
        "self_attn.o_proj": (hidden, queries, arch.out_bias),
        "mlp.gate_proj": (inter, hidden, arch.mlp_bias),
        "mlp.up_proj": (inter, hidden, arch.mlp_bias),
        "mlp.down_proj": (hidden, inter, arch.mlp_bias),
    }
    found: dict[str, Shape] = {EMBED: (arch.vocab_size, hidden), "model.norm.weight": (hidden,)}
    for i in range(arch.num_layers):
        layer = f"model.layers.{i}"
        for name, (rows, columns, biased) in matrices.items():
            found[f"{layer}.{name}.weight"] = (rows, columns)
            if biased:
                found[f"{layer}.{name}.bias"] = (rows,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{name}.weight"] = (hidden,)
        if arch.head_norms:
            for name in ("self_attn.q_norm", "self_attn.k_norm"):
                found[f"{layer}.{name}.weight"] = (arch.head_dim,)
    return found


def head_name(arch: Architecture, names: Iterable[str]) -> str:
    """Where the output head lies: a stored one counts even where the config ties it, as transformers has it."""
    return UNTIED if UNTIED in frozenset(names) or not arch.tied else EMBED


def require_shapes(arch: Architecture, names: frozenset[str], read: Callable[[str], Tensor], name: str) -> None:
    """BackendError naming the first tensor of model `name` that is missing, of another shape, or holds no numbers."""
    beyond = [m[0] for n in names if (m := _LAYER.match(n)) and int(m[1]) >= arch.num_layers]
    if beyond:
        raise _unlike(name, f"there are {arch.num_layers} layers, but tensors of {min(beyond)[:-1]}")
    wanted = expected(arch)
    wanted[head_name(arch, names)] = (arch.vocab_size, arch.hidden_size)
    for tensor_name, shape in wanted.items():
        if tensor_name not in names:
            raise _unlike(name, f"{tensor_name} has shape {list(shape)}, but there is no such tensor")
        found = read(tensor_name)
        if tuple(found.shape) != shape:
            raise _unlike(name, f"{tensor_name} has shape {list(shape)}, but it is stored with {list(found.shape)}")
        if found.dtype not in _NUMBERS:
            raise _unlike(name, f"{tensor_name} holds numbers, but it is stored as {found.dtype}")


def _unlike(name: str, difference: str) -> BackendError:
    return BackendError(one_line(f"{name} does not fit its own config.json: by that {difference}; copy it again"))


def require_parts(tensors: Mapping[str, Tensor], arch: Architecture, width: int) -> bool:
    """Whether `tensors`, prepared for the compiled pass, are all there with the shapes it will read them by.

    `width`: rows of the head.
    """
    queries = arch.num_heads * arch.head_dim
    matrices = {"head": (width, arch.hidden_size, False)}
    vectors = {"norm": arch.hidden_size}
    for i in range(arch.num_layers):
        matrices |= {
            f"{i}.qkv": (arch.qkv_rows, arch.hidden_size, arch.qkv_bias),
            f"{i}.out": (arch.hidden_size, queries, arch.out_bias),
            f"{i}.gate_up": (2 * arch.intermediate_size, arch.hidden_size, arch.mlp_bias),
            f"{i}.down": (arch.hidden_size, arch.intermediate_size, arch.mlp_bias),
        }
        vectors |= {f"{i}.attn_norm": arch.hidden_size, f"{i}.mlp_norm": arch.hidden_size}
        if arch.head_norms:
            vectors |= {f"{i}.q_norm": arch.head_dim, f"{i}.k_norm": arch.head_dim}
    vectors |= {f"{name}.bias": rows for name, (rows, _, biased) in matrices.items() if biased}
    blocks = {name: _blocks(tensors, name, rows, columns) for name, (rows, columns, _) in matrices.items()}
    known = {*vectors, *(part for parts in blocks.values() for part in parts)}
    return (
        all(blocks.values())
        and known == set(tensors)
        and all(tensors[n].dtype == torch.float32 and tuple(tensors[n].shape) == (s,) for n, s in vectors.items())
    )


def _blocks(tensors: Mapping[str, Tensor], name: str, rows: int, columns: int) -> set[str]:
    """Names of the parts of one packed matrix; empty where one is missing or has another shape or format."""
    count, groups = -(-rows // BLOCK), columns // GROUP
    codes, scales, minimums = (f"{name}.native_{part}" for part in ("codes", "scales", "minimums"))
    nibbles = minimums in tensors
    wanted = {
        codes: ((count, groups, 4 if nibbles else 8, 4 * BLOCK), torch.uint8),
        scales: ((count, groups, BLOCK), torch.float16),
        **({minimums: ((count, groups, BLOCK), torch.float16)} if nibbles else {}),
    }
    fine = all(
        part in tensors and tuple(tensors[part].shape) == shape and tensors[part].dtype == form
        for part, (shape, form) in wanted.items()
    )
    return set(wanted) if fine else set()
