"""Prompt files: one JSON object a line, `{"title"?, "text"}` or `{"title"?, "prompt", "reference"?}`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprinter.errors import DataError
from sprinter.learn.splits import bucket, prompt_of


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with the name of the entry it comes from; entries, not prompts, are what splits keep apart."""

    id: str  # 16 hex digits of the SHA-256 of title and prompt
    title: str
    text: str
    reference: str  # what followed the prompt in its source; empty where nobody knows


def read_prompts(files: Sequence[Path], buckets: Iterable[int] | None = None) -> list[Prompt]:
    """The prompts of JSON-lines files in order, each once; `buckets` keeps the entries of these splits only.

    The prompt of a `text` is its first 30% of words. DataError names file and line of the first bad line, or says
    that nothing is left.
    """
    prompts: dict[str, Prompt] = {}
    for file in files:
        for place, row in json_lines(file):
            prompt = prompt_from(row, place)
            prompts.setdefault(prompt.id, prompt)
    if not prompts:
        raise DataError(f"no prompts in {', '.join(map(str, files)) or 'an empty list of files'}")
    if buckets is None:
        return list(prompts.values())
    wanted = frozenset(buckets)
    kept = [p for p in prompts.values() if bucket(p.title) in wanted]
    if not kept:
        chosen = ", ".join(map(str, sorted(wanted)))
        raise DataError(f"none of the {len(prompts)} prompts falls in buckets {chosen}: give other buckets or data")
    return kept


def json_lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place for messages, object) of every non-empty line; DataError names the first line that is no object."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place} is not JSON ({error.msg}): write one object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{place} is not a JSON object: write one object a line")
        yield place, row


def prompt_from(row: Mapping[str, Any], place: str) -> Prompt:
    """The prompt of one row, `text` or `prompt` with an optional `reference`; DataError naming `place`."""
    key = "prompt" if "prompt" in row else "text"
    text = row.get(key)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place} has neither a 'text' nor a 'prompt': write a non-empty string under one of them")
    reference = row.get("reference", "")
    if not isinstance(reference, str):
        raise DataError(f"{place}: 'reference' must be a string")
    if key == "text":
        text, reference = prompt_of(text)
    # Without a title the prompt names itself, so that splits by entry still hold.
    title = str(row.get("title") or text)
    digest = hashlib.sha256(f"{title}\n{text}".encode("utf-8", "replace")).hexdigest()
    return Prompt(digest[:16], title, text, reference)
