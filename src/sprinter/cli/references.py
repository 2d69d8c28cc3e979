"""Texts to copy from: plain files, and JSON lines with a text each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sprinter.door import Door
from sprinter.drafters.copies import MOST_CHARACTERS, PROMPT
from sprinter.errors import DataError

_DOOR: Final = Door(
    DataError, "give UTF-8 text or JSON lines with a 'text'", most_bytes=4 * MOST_CHARACTERS, pipes=True
)
_ROW: Final = Door(DataError, "write one object a line, with a 'text'", most_bytes=4 * MOST_CHARACTERS)


def read_references(given: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """(names, texts) of references; '-' is the prompt itself, which has no name. Raises DataError."""
    named: list[tuple[str, str]] = []
    for word in given:
        if word != PROMPT:
            named += _read(Path(word).expanduser())
    texts = [text for _, text in named] + [PROMPT] * (PROMPT in given)
    return [name for name, _ in named], tuple(texts)


def _read(file: Path) -> list[tuple[str, str]]:
    content = _DOOR.text(file)
    if "\0" in content:
        raise _DOOR.refuse(f"{file} is no text")
    if file.suffix.lower() not in (".jsonl", ".ndjson"):
        if not content.strip():
            raise _DOOR.refuse(f"{file} is empty")
        return [(file.name, content)]
    lines = [(number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    found = [(number, _text(line, f"{file}, line {number}")) for number, line in lines]
    if not found:
        raise _DOOR.refuse(f"{file} is empty")
    return [(f"{file.name}:{number}", text) for number, text in found]


def _text(line: str, where: str) -> str:
    row = _ROW.parse(line, dict[str, Any], where)
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise _ROW.refuse(f"{where} has no 'text'")
    return text
