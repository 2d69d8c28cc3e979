"""Sprinter: approximate speculative decoding whose loss is measured, certified and audited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sprinter.api import Request, Sprinter
    from sprinter.core.records import Generation, Token
    from sprinter.streams import Stream

__version__ = "0.1.0"
__all__ = ["Generation", "Request", "Sprinter", "Stream", "Token", "__version__"]

_HOMES = {
    "Sprinter": "sprinter.api",
    "Request": "sprinter.api",
    "Stream": "sprinter.streams",
    "Generation": "sprinter.core.records",
    "Token": "sprinter.core.records",
}


def __getattr__(name: str) -> Any:
    # Loading on first use keeps `sprinter --help` free of torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'sprinter' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)
