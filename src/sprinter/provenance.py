"""One stamp for every result and weight file: versions, commit, device, configuration, seed."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sprinter import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


def stamp(config: Mapping[str, Any] | None = None, seed: int | None = None) -> dict[str, Any]:
    """How a result came about, as JSON types. Reads nothing but versions; imports none of the packages."""
    return {
        "sprinter": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "command": " ".join(_without_folders(word) for word in sys.argv),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": dict(config or {}),
        "seed": seed,
    }


def _without_folders(word: str) -> str:
    """An absolute path by its name alone: the folders of a machine are nobody else's business."""
    name, equals, value = word.rpartition("=")  # --option=FILE, NAME=FILE
    return f"{name}{equals}{Path(value).name}" if value.startswith("/") else word


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit this source tree stands at; None for an installed package or a machine without git."""
    folder = Path(__file__).resolve().parent
    if not any((parent / ".git").exists() for parent in folder.parents):
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
