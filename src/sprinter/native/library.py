"""The compiled library: the fast backend's forward pass, operations on rows of logits, the verifier's score.

Built once with the user's own C++ compiler and kept in the cache folder; the library itself sees what the processor
can do, and computes the same bits either way. Where there is no compiler or no AVX2, `library` is None: the fast
backend then computes with torch operations, everything else with numpy.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from sprinter.cache import cache_dir

_HEADERS: Final = ("attention", "avx2", "facts", "lanes", "pool", "products", "quantised", "rows", "score", "vnni")
_SOURCES: Final = tuple(
    Path(__file__).with_name(f"native{end}") for end in (".cpp", *(f"_{part}.h" for part in _HEADERS))
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
_POINTER, _INT64, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_SIGNATURES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "sprinter_forward": (ctypes.c_bool, [_POINTER] * 3 + [_INT64] + [_POINTER] * 3 + [ctypes.c_int]),
    "sprinter_facts": (ctypes.c_bool, [_POINTER, _INT64, _INT64, _POINTER]),
    "sprinter_multiply": (None, [_POINTER] * 2 + [_INT64, _POINTER, ctypes.c_int]),
    "sprinter_use_level": (ctypes.c_bool, [ctypes.c_int]),
    "sprinter_typical_floor": (_DOUBLE, [_POINTER, _INT64, _DOUBLE, _DOUBLE]),
    "sprinter_mass_below": (_DOUBLE, [_POINTER, _POINTER, _INT64, ctypes.c_float]),
    "sprinter_softmax": (None, [_POINTER, _INT64, ctypes.c_float, _POINTER]),
    "sprinter_draw": (_INT64, [_POINTER, _INT64, _DOUBLE]),
    "sprinter_residual": (ctypes.c_bool, [_POINTER, _INT64, _POINTER, _POINTER, _INT64, _POINTER]),
    "sprinter_dense": (None, [_POINTER] * 3),
    "sprinter_score": (_DOUBLE, [_POINTER] * 4),
    "sprinter_count_above": (_INT64, [_POINTER, _INT64, ctypes.c_float]),
}


def library() -> Any | None:
    """The compiled library, built first if need be (about 3 s); None where it cannot be had or `SPRINTER_NATIVE=0`."""
    return None if os.environ.get("SPRINTER_NATIVE") == "0" else _loaded(cache_dir() / "native")


@lru_cache(maxsize=4)
def _loaded(folder: Path) -> Any | None:
    if not _has_avx2():
        return None
    try:
        loaded = ctypes.CDLL(str(_built(folder)))
    except (OSError, subprocess.SubprocessError):
        return None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def _has_avx2() -> bool:
    """Whether this is a Linux whose processor runs AVX2 code."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line.split() for line in described.splitlines() if line.startswith("flags")), [])
    return sys.platform.startswith("linux") and {"avx2", "fma", "f16c"}.issubset(flags)


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
