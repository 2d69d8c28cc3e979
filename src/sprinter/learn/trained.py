"""What trained a part, kept as hashes beside its weights: so that nobody calibrates or collects on it unawares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from sprinter.door import Door
from sprinter.errors import DataError
from sprinter.writing import whole

FILE: Final = "trained_on.bin"  # 8 bytes a mark, ascending
_SIZE: Final = 8
_MOST_BYTES: Final = 1 << 26
_DOOR: Final = Door(DataError, "copy the folder again, or train it anew", most_bytes=_MOST_BYTES)

Row = TypeVar("Row")


def mark(text: str) -> bytes:
    """What is kept of a title or a prompt: 8 bytes of its SHA-256, blanks at its ends left out."""
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()[:_SIZE]


def note_trained(folder: Path, texts: Iterable[str], earlier: Path | None = None) -> None:
    """Write the marks of titles and prompts beside the weights in `folder`; those of an `earlier` part are kept."""
    known = trained_on(earlier) if earlier is not None else frozenset[bytes]()
    marks = sorted({mark(text) for text in texts} | (known or frozenset()))
    try:
        with whole(folder / FILE) as file:
            file.write_bytes(b"".join(marks))
    except OSError as error:
        raise DataError(f"cannot write {folder / FILE} ({error.strerror}): free some space") from error


def trained_on(folder: Path) -> frozenset[bytes] | None:
    """The marks of what trained the part in `folder`; None where nobody noted it. DataError for a damaged file."""
    file = folder / FILE
    if not file.is_file():
        return None
    content = _DOOR.read(file)
    marks = [content[start : start + _SIZE] for start in range(0, len(content), _SIZE)]
    if marks and (len(marks[-1]) < _SIZE or marks != sorted(set(marks))):
        raise DataError(f"{file} is damaged: copy the folder again, or train it anew")
    return frozenset(marks)


def unseen(
    rows: Sequence[Row], parts: Mapping[str, Path], texts_of: Callable[[Row], Iterable[str]]
) -> tuple[list[Row], list[str]]:
    """The rows of which neither title nor prompt trained one of `parts` (name -> folder), and lines on the others."""
    kept, told, unknown = list(rows), list[str](), list[str]()
    for name, folder in parts.items():
        known = trained_on(folder)
        if known is None:
            unknown.append(name)
            continue
        fresh = [row for row in kept if not any(mark(text) in known for text in texts_of(row))]
        if len(fresh) < len(kept):
            told.append(f"{len(kept) - len(fresh)} of {len(rows)} texts trained the {name}: they are left out")
        kept = fresh
    if unknown:
        told.append(
            f"nobody noted what trained the {' and the '.join(unknown)}: see to it that none of these texts did"
        )
    return kept, told
