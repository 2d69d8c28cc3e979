"""Runs a model through the compiled forward pass: 4- or 8-bit weights, 8-bit activations; see `sprinter.native`."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor

from sprinter.core.rows import Facts, Part, Views
from sprinter.models.fast.cache import FastCache, Rotary, shared_out
from sprinter.models.fast.config import Architecture
from sprinter.models.fast.weights import HEAD, NATIVE
from sprinter.native.rows import address

_FACTS: Final = 4  # numbers a row, as native_facts.h declares them
_MAX_HEAD_DIM: Final = 512
_LINE: Final = 64  # bytes of a cache line and of a wide register


class Matrix(ctypes.Structure):
    """One weight matrix, as native.cpp declares it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "minimums", "bias")),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, Matrix) for name in ("qkv", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("attn_norm", "mlp_norm", "q_norm", "k_norm")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("head", Matrix),
        ("norm", ctypes.c_void_p),
        ("embed", ctypes.c_void_p),
        ("embed_bytes", ctypes.c_int64),
        *(
            (name, ctypes.c_int64)
            for name in ("num_layers", "hidden", "inter", "num_heads", "num_kv_heads", "head_dim")
        ),
        ("eps", ctypes.c_float),
    )


class _Part(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "tokens", "parents")),
        *((name, ctypes.c_int64) for name in ("capacity", "length", "loose", "rows", "wanted")),
    )


class NativeCache(FastCache):
    """A cache with the struct that tells the compiled pass of it; one pass at a time may use it."""

    def __init__(self, arch: Architecture, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(arch, device, dtype)
        self._part = _Part()
        self.at_part = ctypes.addressof(self._part)
        self.alone = array("q", [self.at_part])  # the list of parts of a pass that is this one's alone

    def reserve(self, num_rows: int) -> None:
        """See `FastCache.reserve`."""
        held = self.capacity
        super().reserve(num_rows)
        if self.capacity != held:
            keys, values = self.kv
            self._part.keys, self._part.values = keys.data_ptr(), values.data_ptr()
            self._part.capacity = self.capacity

    def describe(self, part: Part) -> list[array[int]]:
        """Fill the struct with a part of this cache; it points into the arrays returned."""
        told, tokens = self._part, array("q", part.tokens)
        told.tokens, told.rows = tokens.buffer_info()
        told.length, told.loose, told.wanted = self.length, len(self.parents), part.wanted
        if part.parents is None:
            told.parents = None
            return [tokens]
        parents = array("q", self.parents)
        parents.extend(part.parents)
        told.parents = parents.buffer_info()[0]
        return [tokens, parents]


def fits(arch: Architecture) -> bool:
    """Whether the compiled pass handles these shapes."""
    widths = (arch.hidden_size, arch.intermediate_size, arch.num_heads * arch.head_dim)
    heads = arch.head_dim % 8 == 0 and arch.head_dim <= _MAX_HEAD_DIM
    return heads and all(width % 32 == 0 for width in widths)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def matrix(tensors: Mapping[str, Tensor], name: str, rows: int, columns: int) -> Matrix:
    """Matrix `name` of `native_parts`; it points into `tensors`, which must outlive it."""
    parts = (tensors.get(f"{name}.{NATIVE}_{part}") for part in ("codes", "scales", "minimums"))
    return Matrix(*(_address(part) for part in parts), _address(tensors.get(f"{name}.bias")), rows, columns)


def _resident(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of `tensors` in one block of memory, each on a cache line's boundary.

    A file's tensors begin anywhere, so that every wide load would touch two lines; and numpy asks for huge pages, which
    a mapped file does not get. Together that is a tenth of a one-token pass.
    """
    sizes = {name: -(-tensor.nbytes // _LINE) * _LINE for name, tensor in tensors.items()}
    block = torch.from_numpy(np.empty(sum(sizes.values()) + _LINE, np.uint8))
    at, copies = -block.data_ptr() % _LINE, {}
    for name, tensor in tensors.items():
        place = block[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        copies[name] = place.copy_(tensor)
        at += sizes[name]
    return copies


class NativeRunner:
    """Runs rows through the compiled forward pass; the same duties as `TorchRunner`."""

    def __init__(
        self, loaded: Any, arch: Architecture, tensors: Mapping[str, Tensor], embed: Tensor, width: int
    ) -> None:
        self._forward = loaded.sprinter_forward
        self._arch = arch
        self._embed = embed.contiguous() if embed.dtype in (torch.float32, torch.bfloat16) else embed.float()
        self._width = width  # rows of the head
        # The library reads these tensors' memory, so they must live as long as this object.
        self._tensors = _resident(tensors)
        self._layers = (_Layer * arch.num_layers)(*(self._layer(i) for i in range(arch.num_layers)))
        self._model = _Model(
            ctypes.cast(self._layers, ctypes.POINTER(_Layer)),
            self._matrix(HEAD, width, arch.hidden_size),
            _address(self._tensors["norm"]),
            _address(self._embed),
            self._embed.element_size(),
            arch.num_layers,
            arch.hidden_size,
            arch.intermediate_size,
            arch.num_heads,
            arch.num_kv_heads,
            arch.head_dim,
            arch.norm_eps,
        )
        self._model_view = ctypes.byref(self._model)
        self._rotary = Rotary(arch, torch.device("cpu"))

    def _matrix(self, name: str, rows: int, columns: int) -> Matrix:
        return matrix(self._tensors, name, rows, columns)

    def _layer(self, i: int) -> _Layer:
        arch = self._arch
        heads, inter = arch.num_heads * arch.head_dim, arch.intermediate_size
        return _Layer(
            self._matrix(f"{i}.qkv", arch.qkv_rows, arch.hidden_size),
            self._matrix(f"{i}.out", arch.hidden_size, heads),
            self._matrix(f"{i}.gate_up", 2 * inter, arch.hidden_size),
            self._matrix(f"{i}.down", arch.hidden_size, inter),
            *(_address(self._tensors.get(f"{i}.{n}")) for n in ("attn_norm", "mlp_norm", "q_norm", "k_norm")),
        )

    def without(self, left_out: Collection[int], arch: Architecture) -> Self:
        """See `Runner.without`."""
        view = copy(self)
        view._arch = arch
        view._layers = (_Layer * arch.num_layers)(*self._layers)
        for block in left_out:
            # The compiled pass takes a block whose first matrix has no rows for one that is left out.
            first = view._layers[block // 2]
            (first.gate_up if block % 2 else first.qkv).rows = 0
        view._model = _Model.from_buffer_copy(self._model)
        view._model.layers = ctypes.cast(view._layers, ctypes.POINTER(_Layer))
        view._model_view = ctypes.byref(view._model)
        return view

    def open(self) -> NativeCache:
        """A new, empty cache."""
        return NativeCache(self._arch, torch.device("cpu"))

    def run(
        self, parts: Sequence[Part], caches: Sequence[NativeCache], positions: Sequence[Sequence[int]]
    ) -> list[Views]:
        """See `Runner.run`."""
        # Little Python and no torch: a pass streams its weights through the caches, so all code after it starts cold.
        last = wanted = 0
        told = []  # what the structs point into
        for part, cache, where in zip(parts, caches, positions, strict=True):
            cache.reserve(len(part.tokens))
            told.append(cache.describe(part))
            last, wanted = max(last, *where), wanted + part.wanted
        listed = caches[0].alone if len(caches) == 1 else array("q", [cache.at_part for cache in caches])
        rotary = self._rotary.upto(last + 1)
        logits = np.empty((wanted, self._width), np.float32)
        hidden = np.empty((wanted, self._arch.hidden_size), np.float32)
        facts = np.empty((wanted, _FACTS))
        finite = self._forward(
            self._model_view,
            rotary.data_ptr(),
            listed.buffer_info()[0],
            len(parts),
            address(hidden),
            address(logits),
            address(facts),
            torch.get_num_threads(),
        )
        if not finite:
            raise FloatingPointError
        if len(parts) == 1:
            return [Views(logits, hidden, Facts(facts))]
        return shared_out(parts, logits, hidden, facts)
