"""Runs a model through the compiled forward pass: 4- or 8-bit weights, 8-bit activations; see `sprinter.native`."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sprinter.core.records import FloatArray, RowFacts
from sprinter.models.fast.config import Architecture
from sprinter.models.fast.torch_runner import SequenceCache
from sprinter.models.fast.weights import HEAD, NATIVE

_FACTS: Final = 3  # numbers a row, as native_facts.h declares them
_CHUNK: Final = 256  # rows per pass; bounds the scratch memory of a long prompt
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


class _Cache(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "rotary")),
        ("capacity", ctypes.c_int64),
    )


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
    """Runs tokens through the compiled forward pass; the same duties as `TorchRunner`."""

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
        self._cache = SequenceCache(arch, torch.device("cpu"))
        self._cache_view = self._view()

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

    def _view(self) -> Any:
        keys, values = self._cache.kv
        return ctypes.byref(_Cache(_address(keys), _address(values), _address(self._cache.rotary), keys.shape[2]))

    def run(self, ids: Sequence[int], start: int, num_last: int) -> tuple[FloatArray, FloatArray, RowFacts]:
        """See `Runner.run`."""
        # Little Python and no torch: a pass streams its weights through the caches, so all code after it starts cold.
        num_rows, width, hidden = len(ids), self._width, self._arch.hidden_size
        if self._cache.reserve(start + num_rows):
            self._cache_view = self._view()
        wanted_ids = array("q", ids)
        out = np.empty(num_last * (width + hidden), np.float32)
        facts = np.empty((num_last, _FACTS))
        at_facts = facts.ctypes.data
        at_ids, at_logits = wanted_ids.buffer_info()[0], out.ctypes.data
        at_hidden = at_logits + 4 * num_last * width
        threads, first_wanted, finite = torch.get_num_threads(), num_rows - num_last, True
        for begin in range(0, num_rows, _CHUNK):
            rows = min(_CHUNK, num_rows - begin)
            wanted = min(rows, max(0, begin + rows - first_wanted))
            done = max(0, begin - first_wanted)  # rows of the outputs that earlier chunks filled
            finite &= self._forward(
                self._model_view,
                self._cache_view,
                at_ids + 8 * begin,
                rows,
                start + begin,
                wanted,
                at_hidden + 4 * done * hidden,
                at_logits + 4 * done * width,
                at_facts + 8 * _FACTS * done,
                threads,
            )
        if not finite:
            raise FloatingPointError
        logits = out[: num_last * width].reshape(num_last, width)
        return logits, out[num_last * width :].reshape(num_last, hidden), RowFacts(facts)
