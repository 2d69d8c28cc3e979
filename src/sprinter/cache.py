"""Where what can be made again is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`SPRINTER_CACHE` if set, else the platform's user cache folder for sprinter; not created here."""
    chosen = os.environ.get("SPRINTER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs  # noqa: PLC0415 - only needed without the variable

    return Path(platformdirs.user_cache_dir("sprinter"))
