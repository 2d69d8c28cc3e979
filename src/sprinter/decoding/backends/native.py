"""The compiled forward pass: 4- or 8-bit weights, 8-bit activations, AVX2 or AVX512-VNNI. Optional, never needed.

Built once with the user's own C++ compiler and kept in the cache folder; the library itself sees what the processor
can do, and computes the same bits either way. Where there is no compiler or no AVX2, `library` is None and the fast
backend computes with torch operations instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sprinter.decoding.backends.fast_config import Architecture
from sprinter.decoding.backends.fast_runner import SequenceCache
from sprinter.decoding.backends.fast_weights import HEAD, NATIVE
from sprinter.records import FloatArray
from sprinter.zoo.default_pair import cache_dir

_SOURCES: Final = tuple(
    Path(__file__).with_name(f"native{end}")
    for end in (".cpp", "_attention.h", "_avx2.h", "_pool.h", "_products.h", "_quantised.h", "_vnni.h")
)
_FLAGS: Final = (
    "-O3",
    "-std=c++17",
    "-mavx2",
    "-mfma",
    "-mf16c",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
)
_LINK: Final = ("-pthread", "-shared", "-fPIC")
_NO_VNNI: Final = "-DSPRINTER_AVX2_ONLY"  # for a compiler or assembler that does not know the newer instructions
_COMPILE_SECONDS: Final = 300
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


def library() -> Any | None:
    """The compiled library, built first if need be (about 3 s); None where it cannot be had or `SPRINTER_NATIVE=0`."""
    return None if os.environ.get("SPRINTER_NATIVE") == "0" else _loaded(cache_dir() / "native")


@lru_cache(maxsize=4)
def _loaded(folder: Path) -> Any | None:
    # An AVX512 machine runs AVX2 code as well; "DEFAULT" and other processors' names do not.
    if not sys.platform.startswith("linux") or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return None
    try:
        loaded = ctypes.CDLL(str(_built(folder)))
    except (OSError, subprocess.SubprocessError):
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    loaded.sprinter_forward.argtypes = [pointer] * 3 + [number] * 3 + [pointer] * 2 + [ctypes.c_int]
    loaded.sprinter_forward.restype = ctypes.c_bool
    loaded.sprinter_multiply.argtypes = [pointer] * 2 + [number, pointer, ctypes.c_int]
    loaded.sprinter_multiply.restype = None
    loaded.sprinter_use_level.argtypes = [ctypes.c_int]
    loaded.sprinter_use_level.restype = ctypes.c_bool
    return loaded


def _built(folder: Path) -> Path:
    """The library file, named after its source and flags; OSError or SubprocessError when it cannot be built."""
    recipe = [*(source.read_bytes() for source in _SOURCES), " ".join((*_FLAGS, *_LINK)).encode()]
    digest = hashlib.sha256(b"".join(recipe)).hexdigest()
    path = folder / f"sprinter-{digest[:20]}.so"
    if path.is_file():
        return path
    compiler = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)
    if compiler is None:
        raise OSError("no C++ compiler")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as beside:
        built = Path(beside) / path.name
        command = [compiler, *_FLAGS, *_LINK, str(_SOURCES[0]), "-o", str(built)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_SECONDS)
        except subprocess.CalledProcessError:
            subprocess.run([*command, _NO_VNNI], check=True, capture_output=True, timeout=_COMPILE_SECONDS)
        built.replace(path)
    return path


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

    def run(self, ids: Sequence[int], start: int, num_last: int) -> tuple[FloatArray, FloatArray]:
        """See `Runner.run`."""
        # Little Python and no torch: a pass streams its weights through the caches, so all code after it starts cold.
        num_rows, width, hidden = len(ids), self._width, self._arch.hidden_size
        if self._cache.reserve(start + num_rows):
            self._cache_view = self._view()
        wanted_ids = array("q", ids)
        out = np.empty(num_last * (width + hidden), np.float32)
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
                threads,
            )
        if not finite:
            raise FloatingPointError
        logits = out[: num_last * width].reshape(num_last, width)
        return logits, out[num_last * width :].reshape(num_last, hidden)
