"""Which compiled pass this is: a digest of its sources and one of its build options."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from sprinter.native.compiling import sources

_HERE: Final = Path(__file__).parent
_FLAGS: Final = "flags.txt"
_NOTED: Final = (
    "digest.txt"  # in a wheel, which has no sources: written by CMakeLists.txt, the two digests line by line
)


@lru_cache
def source_digest() -> str:
    """SHA-256 hex of the C++ files less comments at line ends, all blanks alike; "none" where nothing is known."""
    found = sources()
    return digest_of([path.read_text(encoding="utf-8") for path in found]) if found else _noted(0)


@lru_cache
def build_digest() -> str:
    """The same of the compiler's options."""
    file = _HERE / _FLAGS
    return digest_of([file.read_text(encoding="ascii")]) if file.is_file() else _noted(1)


def digest_of(texts: list[str]) -> str:
    """SHA-256 hex of the texts one after the other. CMakeLists.txt does the same."""
    joined = "".join(re.sub(r"[ \t\n]+", " ", re.sub("//[^\n]*", "", text)) for text in texts)
    return hashlib.sha256(joined.encode()).hexdigest()


def _noted(line: int) -> str:
    try:
        return (_HERE / _NOTED).read_text(encoding="ascii").split()[line]
    except (OSError, IndexError):
        return "none"
