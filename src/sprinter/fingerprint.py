"""One word for a model's law: SHA-256 over its config and tensors, whatever folder or metadata they come with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from sprinter.cache import cache_dir
from sprinter.errors import BackendError
from sprinter.writing import write_text

_WORTH_REMEMBERING: Final = 64 << 20  # bytes
_MOST_HEADER: Final = 100 << 20  # bytes; what the safetensors library itself allows
_HEX_DIGITS: Final = 64
# Where a config was read from and by which version: no part of the model, and other on every machine.
_NOT_THE_MODEL: Final = frozenset({"_name_or_path", "transformers_version"})

Mark = tuple[str, int, int, int, int]  # path, size, inode, times of the last change of content and of anything


def fingerprint_of(config: Mapping[str, Any], files: Sequence[Path]) -> str:
    """SHA-256 (hex) over a config.json and the tensors of `files`; BackendError if one cannot be read."""
    try:
        marks = tuple(_mark(file) for file in files)
    except OSError as error:
        raise BackendError(f"cannot read {error.filename} ({error.strerror}): copy the model again") from error
    own = {key: value for key, value in config.items() if key not in _NOT_THE_MODEL}
    return _fingerprint(json.dumps(own, sort_keys=True), marks)


def sha256_of(file: Path) -> str:
    """SHA-256 (hex) of a file's bytes; BackendError if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BackendError(f"cannot read {file}: {error}") from error


def damaged(file: Path, error: Exception) -> BackendError:
    """What to raise for a tensor file that cannot be read."""
    return BackendError(f"{file} is damaged or truncated ({error}): copy or download it again")


def _mark(file: Path) -> Mark:
    # The time of the last change of anything cannot be set back, as that of the content can: `touch -r` and `cp -p` do.
    found = file.stat()
    return str(file), found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=64)
def _fingerprint(config: str, marks: tuple[Mark, ...]) -> str:
    digest = hashlib.sha256(config.encode())
    for mark in marks:
        digest.update(bytes.fromhex(_remembered_sha256(mark)))
    return digest.hexdigest()


def remembered_sha256(file: Path) -> str:
    """SHA-256 (hex) of a file's content, from the cache folder where a large one was hashed before."""
    try:
        return _remembered_sha256(_mark(file))
    except OSError as error:
        raise BackendError(f"cannot read {file} ({error.strerror}): copy the model again") from error


def _remembered_sha256(mark: Mark) -> str:
    """SHA-256 of a file, kept in the cache folder if large: half a gigabyte would delay every start."""
    path, size = Path(mark[0]), mark[1]
    if size < _WORTH_REMEMBERING:
        return _content_sha256(path)
    key = hashlib.sha256(f"content {path.resolve()} {mark[1:]}".encode()).hexdigest()
    note = cache_dir() / "sha256" / key
    with suppress(OSError, UnicodeDecodeError):  # no note yet, or an unreadable one: hash
        known = note.read_text(encoding="ascii").strip()
        if len(known) == _HEX_DIGITS and not set(known) - set("0123456789abcdef"):
            return known
    found = _content_sha256(path)
    with suppress(OSError):  # a cache that cannot be written only costs time
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, found)
    return found


def _content_sha256(file: Path) -> str:
    """SHA-256 of a file's tensors: names, shapes, formats and bytes. BackendError if it cannot be read.

    The library writes a file's metadata in an order drawn anew each time, so two conversions of one model differ as
    files; their fingerprints must not.
    """
    if file.suffix != ".safetensors":
        return sha256_of(file)
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _MOST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
            return hashlib.file_digest(stream, lambda: digest).hexdigest()
    except (OSError, ValueError, AttributeError, MemoryError, OverflowError, RecursionError) as error:
        raise damaged(file, error) from error
