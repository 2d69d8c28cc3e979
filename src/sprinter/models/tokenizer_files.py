"""The files a tokenizer lies in: read within limits, every place looked at where transformers looks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from tokenizers import Tokenizer as FastTokenizer

from sprinter.door import Door, one_line
from sprinter.errors import BackendError

DOOR: Final = Door()
SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TEMPLATE: Final = Door(most_bytes=1 << 20)
_MOST_PARTS: Final = 1000  # of a normalizer, pre-tokenizer or decoder, all nesting counted
_MOST_GROWTH: Final = 1000.0  # characters that one may become
_MOST_PATTERN: Final = 10_000  # characters of a regular expression
_MOST_ID: Final = 1 << 22


class _Model(msgspec.Struct):
    type: str | None = None


class _Added(msgspec.Struct):
    id: int
    content: str


class _Named(msgspec.Struct):
    name: str
    template: str


class _TokenizerFile(msgspec.Struct):
    """What is looked at of a tokenizer.json before the tokenizers library reads it."""

    model: _Model
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    added_tokens: list[_Added] = []


def folder_of(path: Path) -> Path:
    """The model folder that stands for `path`: a GGUF file's is its conversion."""
    if not path.is_file():
        return path
    from sprinter.models.gguf import converted  # noqa: PLC0415 - only for GGUF files

    return converted(path)


def settings_of(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with what special_tokens_map.json adds where that does not list the tokens itself."""
    settings = _optional(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in settings:
        settings |= _optional(folder / "special_tokens_map.json")
    return settings


def read_fast(file: Path) -> FastTokenizer:
    """tokenizer.json, without the truncation and padding that some store in it. Raises BackendError."""
    try:
        found = DOOR.json(file, _TokenizerFile)
        _require_tame(found)
        fast = FastTokenizer.from_file(str(file))
        fast.no_truncation()
        fast.no_padding()
        fast.encode("a", add_special_tokens=True)  # what cannot cut this cannot cut anything
    except BackendError as error:
        raise BackendError(f"{file} is damaged ({error})") from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, or panics, for a malformed file
        reason = one_line(str(error))[:200]
        raise BackendError(f"{file} is damaged ({reason}): copy or download it again") from error
    return fast


def _require_tame(found: _TokenizerFile) -> None:
    """ValueError for steps that would make a text grow without bound or take time without end."""
    if any(not 0 <= token.id < _MOST_ID for token in found.added_tokens):
        raise ValueError("it has a token id beyond all vocabularies")
    for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        parts = list(_parts(getattr(found, name)))
        if len(parts) > _MOST_PARTS:
            raise ValueError(f"its {name} has {len(parts)} steps")
        growth = 1.0
        for part in parts:
            growth *= _growth(part)
        if growth > _MOST_GROWTH:
            raise ValueError(f"its {name} makes a text more than {_MOST_GROWTH:g} times as long")


def _parts(holder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """All steps of a normalizer or the like, however they are nested."""
    waiting: list[Any] = [] if holder is None else [holder]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            yield inner
        waiting += [v for v in (inner.values() if isinstance(inner, dict) else inner) if isinstance(v, dict | list)]


def _growth(part: Mapping[str, Any]) -> float:
    """How many times as long a step may make a text; ValueError for a pattern that may never end."""
    pattern = part.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(regex, str):
        _require_quick(regex)
    if part.get("type") == "Replace" and isinstance(part.get("content"), str):
        plain = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1.0, len(part["content"]) / max(1, len(plain) if isinstance(plain, str) else 1))
    if part.get("type") == "Prepend" and isinstance(part.get("prepend"), str):
        return 1.0 + len(part["prepend"]) / 10
    return 1.0


def _require_quick(regex: str) -> None:
    """ValueError for a pattern with a repeated group whose body repeats too: matching may take exponential time."""
    if len(regex) > _MOST_PATTERN:
        raise ValueError("it has a pattern of more than 10,000 characters")
    plain = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "x", regex, flags=re.DOTALL)  # escapes and classes match one character
    repeats: list[bool] = [False]
    for place, character in enumerate(plain):
        if character == "(":
            repeats.append(False)
        elif character == ")" and len(repeats) > 1:
            inner = repeats.pop()
            follows = re.match(r"[*+]|\{\d*,\d*\}", plain[place + 1 :])
            if inner and follows:
                raise ValueError("it has a pattern that repeats a repetition, which may take exponential time")
            repeats[-1] = repeats[-1] or inner
        elif character in "*+" or (character == "{" and re.match(r"\{\d*,\d*\}", plain[place:])):
            repeats[-1] = True


def end_ids(folder: Path, fast: FastTokenizer, end: str | None) -> frozenset[int]:
    """Ids that end a text, from every file of a model folder that names some."""
    found = {fast.token_to_id(end)} if end else set()
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        told = _optional(folder / name)
        found |= _ids(told.get("eos_token_id"))
        inner = told.get("text_config")  # of a model that reads more than text
        found |= _ids(inner.get("eos_token_id")) if isinstance(inner, dict) else set()
    return frozenset(i for i in found if i is not None and i >= 0)


def templates_of(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name, "default" the plain one: from .jinja files, else from the tokenizer's settings."""
    found: dict[str, str] = {}
    if (folder / "chat_template.jinja").is_file():
        found["default"] = _TEMPLATE.text(folder / "chat_template.jinja")
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))[:100]:
        found[file.stem] = _TEMPLATE.text(file)
    stored = settings.get("chat_template")
    if found or stored is None:
        return found
    if isinstance(stored, str):
        return {"default": stored}
    if isinstance(stored, dict):
        return DOOR.as_kind(stored, dict[str, str], f"the chat template of {folder}")
    return {t.name: t.template for t in DOOR.as_kind(stored, list[_Named], f"the chat template of {folder}")}


def token_text(entry: Any) -> str:
    """The text of a special token, which may be stored with its options."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else ""


def _optional(file: Path) -> dict[str, Any]:
    return DOOR.json(file, dict[str, Any]) if file.is_file() else {}


def _ids(value: Any) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {v for v in values if isinstance(v, int) and not isinstance(v, bool)}
