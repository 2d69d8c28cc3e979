"""The compiled library: the fast backend's forward pass, operations on rows of logits, the verifier's score.

The library itself sees what the processor can do, and computes the same bits either way. Where it cannot be had,
`library` is None and `standing` says why: the fast backend then computes with torch operations, everything else with
numpy.
"""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from sprinter.cache import cache_dir
from sprinter.native import compiling

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
    """The compiled library, in a source tree compiled first (about 10 s); None where there is none."""
    return None if os.environ.get("SPRINTER_NATIVE") == "0" else _loaded(cache_dir() / "native")[0]


def standing() -> str:
    """Whether the compiled library runs here, and if not, why: for people."""
    if os.environ.get("SPRINTER_NATIVE") == "0":
        return "off: SPRINTER_NATIVE is 0"
    return _loaded(cache_dir() / "native")[1]


@lru_cache(maxsize=4)
def _loaded(folder: Path) -> tuple[Any | None, str]:
    """(the library or None, its standing); a failure is told once, since all that follows is slower."""
    if (obstacle := compiling.obstacle()) is not None:
        return None, f"off: {obstacle}"
    try:
        path = compiling.library_file(folder)
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        reason = compiling.reason(error)
        logging.getLogger("sprinter").warning("sprinter: decoding without its compiled pass, slower: %s", reason)
        return None, f"off: {reason}"
    return loaded, f"on: {path}"
