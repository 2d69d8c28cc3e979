"""Files from elsewhere: read within limits of size, depth and type, or refused in one line.

Every JSON and TOML file goes through here. Model folders, records, journals and prompts come from anywhere, so nothing
about them is taken for granted: a file may be a pipe, half a terabyte, nested a million deep, or hold a list where a
number should be. Python's parsers do the parsing, msgspec compares what came out with the type that was expected.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from sprinter.errors import BackendError, SprinterError

MOST_BYTES: Final = 64 << 20  # a tokenizer.json of a quarter million pieces with merges has 35 MiB
MOST_DEPTH: Final = 64
_MOST_REASON: Final = 200  # characters of a parser's own words
_SEAL: Final = "seal"
_SEAL_DIGITS: Final = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Door:
    """Whose file it is: what is raised for a bad one, and what its owner is advised to do.

    `strict` is for files of our own making: no key twice, no NaN, no infinity.
    """

    error: type[SprinterError] = BackendError
    advice: str = "copy or download it again"
    strict: bool = False
    most_bytes: int = MOST_BYTES
    pipes: bool = False  # whether `<(command)` may stand for a file

    def refuse(self, reason: str) -> SprinterError:
        """The error that says `reason` and the advice, in one line of bounded length."""
        return self.error(f"{one_line(reason)}: {self.advice}")

    def read(self, file: Path) -> bytes:
        """The bytes of a plain file; refused where it is missing, no plain file, or larger than `most_bytes`."""
        try:
            with open(file, "rb", opener=None if self.pipes else _open_plain) as stream:
                content = stream.read(self.most_bytes + 1)
        except OSError as error:
            raise self.refuse(f"cannot read {file} ({error.strerror or error})") from None
        except ValueError:
            raise self.refuse("the file's name holds a null character") from None
        if len(content) > self.most_bytes:
            raise self.refuse(f"{file} has more than {self.most_bytes >> 20} MiB, which no such file has")
        return content

    def text(self, file: Path) -> str:
        """A plain UTF-8 file's text, without a byte order mark."""
        try:
            return self.read(file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.refuse(f"{file} is not UTF-8 text (byte {error.start})") from None

    def json(self, file: Path, kind: type[T]) -> T:
        """The JSON file's content as a `kind` (any type msgspec knows)."""
        return self.parse(self.read(file), kind, str(file))

    def toml(self, file: Path) -> dict[str, Any]:
        """The TOML file's tables."""
        text = self.text(file)
        try:
            tables: dict[str, Any] = _shallow(tomllib.loads(text))
            return tables
        except (ValueError, RecursionError) as error:
            raise self.refuse(f"{file} is not valid TOML ({_reason(error)})") from None

    def parse(self, content: bytes | str, kind: type[T], where: str) -> T:
        """JSON `content` as a `kind`; `where` names it in messages."""
        hooks: dict[str, Any] = {}
        if self.strict:
            hooks = {"parse_constant": _no_constant, "parse_float": _finite, "object_pairs_hook": _unique_keys}
        try:
            raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
            if len(raw) > self.most_bytes:
                raise ValueError(f"more than {self.most_bytes >> 20} MiB")
            text = raw.decode("utf-8-sig", "surrogatepass" if isinstance(content, str) else "strict")
            return msgspec.convert(_shallow(json.loads(text, **hooks)), kind, strict=True)
        except msgspec.ValidationError as error:
            raise self.refuse(f"{where} is not what it should be ({_reason(error)})") from None
        except (ValueError, RecursionError) as error:
            raise self.refuse(f"{where} is not valid JSON ({_reason(error)})") from None

    def as_kind(self, value: Any, kind: type[T], where: str) -> T:
        """Content that is parsed already, as a `kind`."""
        try:
            return msgspec.convert(value, kind, strict=True)
        except msgspec.ValidationError as error:
            raise self.refuse(f"{where} is not what it should be ({_reason(error)})") from None


def is_obeyed(character: str) -> bool:
    """Whether a terminal or a page would obey a character instead of showing it.

    Control characters but newline and tab, what turns the direction of writing, halves of characters. Joiners and wide
    or unbreakable spaces are part of many languages' text, and shown.
    """
    code = ord(character)
    if code < 0x20 or 0x7F <= code < 0xA0:
        return character not in "\n\t"
    return 0xD800 <= code < 0xE000 or code in range(0x202A, 0x202F) or code in range(0x2066, 0x206A)


def as_json(value: Any) -> str:
    """`value` as one JSON line that can be shown: other alphabets as they are, what would be obeyed by number."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "".join(f"\\u{ord(c):04x}" if is_obeyed(c) else c for c in text)


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, as a message shows it."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def seal(row: Mapping[str, Any]) -> str:
    """`row` as one JSON line that tells whether it was damaged since; see `unseal`."""
    content = json.dumps(row, allow_nan=False)
    return json.dumps({**json.loads(content), _SEAL: _seal_of(json.loads(content))}) + "\n"


def unseal(door: Door, line: bytes | str, where: str) -> dict[str, Any]:
    """The row of a sealed line, without its seal; refused where one bit of it is another."""
    row = door.parse(line, dict[str, Any], where)
    if row.pop(_SEAL, None) != _seal_of(row):
        raise door.refuse(f"{where} was damaged or edited after it was written")
    return row


def _seal_of(row: Mapping[str, Any]) -> str:
    canonical = json.dumps(row, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_SEAL_DIGITS]


def _open_plain(path: str, flags: int) -> int:
    """A descriptor of a plain file; a pipe or a terminal would keep a reader waiting for ever."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file")
    return descriptor


def _shallow(loaded: Any) -> Any:
    """`loaded`, or ValueError where it is nested deeper than anything honest is."""
    level = [loaded]
    for _ in range(MOST_DEPTH):
        level = [
            value
            for holder in level
            for value in (holder.values() if isinstance(holder, dict) else holder if isinstance(holder, list) else ())
            if isinstance(value, dict | list)
        ]
        if not level:
            return loaded
    raise ValueError(f"nested more than {MOST_DEPTH} deep")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"nested more than {MOST_DEPTH} deep"
    return (one_line(str(error)) or type(error).__name__)[:_MOST_REASON]


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key is given twice")
    return keys
