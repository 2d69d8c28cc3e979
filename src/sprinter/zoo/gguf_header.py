"""The header of a GGUF file (versions 2 and 3): every length checked against the file before anything is read by it.

"GGUF", version u32, number of tensors u64, number of keys u64
keys:    name, type u32, value          a string is a length u64 and UTF-8; an array is a type u32, a length u64
tensors: name, number of dimensions u32, dimensions u64 (fastest first), type u32, offset u64
tensor data, from the next multiple of `general.alignment` on
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from sprinter.door import one_line
from sprinter.errors import BackendError

_MAGIC: Final = b"GGUF"
_LFS: Final = b"version https://git-lfs"
_MOST_KEYS: Final = 1 << 16
_MOST_TENSORS: Final = 1 << 16
_MOST_DIMENSIONS: Final = 4
_MOST_NESTING: Final = 2  # arrays in arrays
_STRING, _ARRAY = 8, 9
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one tensor lies."""

    shape: tuple[int, ...]  # slowest dimension first, as numpy has it
    type: int  # GGML's number of its format
    offset: int  # bytes from the beginning of the file
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A file's keys and where its tensors lie."""

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, TensorPlace]

    def tensor(self, name: str) -> NDArray[np.float32]:
        """One tensor as float32; BackendError for a format that is not known here."""
        from gguf import GGMLQuantizationType, dequantize  # noqa: PLC0415 - only conversion needs it

        place = self.tensors[name]
        raw = np.memmap(self.path, np.uint8, "r", place.offset, (place.size,))
        try:
            kind = GGMLQuantizationType(place.type)
            values = dequantize(raw.reshape(prod(place.shape[:-1]), -1), kind)
        except (NotImplementedError, ValueError) as error:
            raise BackendError(
                f"{self.path}: the format of {name} is unknown here ({error}): use a Q8_0 file"
            ) from None
        return np.asarray(values, np.float32).reshape(place.shape)


def looks_like_gguf(path: Path) -> bool:
    """Whether a file is one by its first bytes or, where those are missing, by its name."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read_gguf(path: Path) -> GgufFile:
    """The header of a GGUF file. BackendError naming what is wrong with a file that is none, cut, or one of several."""
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
            if start.startswith(_LFS):
                raise BackendError(f"{path} is a Git LFS pointer, not the model: run `git lfs pull` in its folder")
            if start[: len(_MAGIC)] != _MAGIC:
                raise BackendError(f"{path} is not a readable GGUF file (it does not begin as one): download it again")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(path, content).read()
    except (OSError, ValueError) as error:
        raise BackendError(f"cannot read {path}: {one_line(str(error))}") from None


class _Reader:
    """Reads the header front to back; each step fails where the file ends."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path = path
        self._content = content
        self._size = len(content)
        self._at = len(_MAGIC)

    def read(self) -> GgufFile:
        version = self._number("I")
        if version in (2 << 24, 3 << 24):
            self._fail("its numbers are big-endian: convert the model for this kind of machine")
        if version not in (2, 3):
            self._fail(f"its version is {version}, known are 2 and 3")
        num_tensors, num_keys = int(self._number("Q")), int(self._number("Q"))
        if num_tensors > _MOST_TENSORS or num_keys > _MOST_KEYS:
            self._fail("it counts more tensors or keys than any model has")
        fields: dict[str, Any] = {}
        for _ in range(num_keys):
            name = self._string()
            fields[name] = self._value(int(self._number("I")), 0)
        parts = fields.get("split.count", 0)
        if isinstance(parts, int) and parts > 1:
            self._fail(f"it is one of {parts} parts: join them first with llama.cpp's `llama-gguf-split --merge`")
        found = [self._tensor() for _ in range(num_tensors)]
        return GgufFile(self._path, fields, self._places(found, fields))

    def _places(
        self, found: list[tuple[str, tuple[int, ...], int, int]], fields: Mapping[str, Any]
    ) -> dict[str, TensorPlace]:
        alignment = fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 16:
            self._fail("its alignment is no number of bytes")
        start = -(-self._at // alignment) * alignment
        places: dict[str, TensorPlace] = {}
        for name, shape, kind, offset in found:
            size = self._bytes(name, shape, kind)
            if start + offset + size > self._size:
                self._fail(f"the file ends before {name} does")
            if name in places:
                self._fail(f"it holds {name} twice")
            places[name] = TensorPlace(shape, kind, start + offset, size)
        return places

    def _bytes(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415

        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            self._fail(f"the format of {name} is unknown here")
        if not shape or min(shape) < 1 or shape[-1] % block:
            self._fail(f"the shape of {name} is impossible")
        return int(prod(shape) // block * size)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        dimensions = int(self._number("I"))
        if dimensions > _MOST_DIMENSIONS:
            self._fail(f"{name} has {dimensions} dimensions")
        shape = tuple(int(self._number("Q")) for _ in range(dimensions))[::-1]
        return name, shape, int(self._number("I")), int(self._number("Q"))

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind != _ARRAY or depth >= _MOST_NESTING:
            self._fail(f"a key has the unknown type {kind}")
        inner, length = int(self._number("I")), int(self._number("Q"))
        if length > self._size - self._at:  # an entry has at least one byte
            self._fail("an array is longer than the file")
        if inner in _NUMBERS:
            form = f"<{length}{_NUMBERS[inner]}"
            return list(struct.unpack(form, self._take(struct.calcsize(form))))
        return [self._value(inner, depth + 1) for _ in range(length)]

    def _string(self) -> str:
        return self._take(int(self._number("Q"))).decode("utf-8", "replace")

    def _number(self, form: str) -> Any:
        form = f"<{form}"
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, size: int) -> bytes:
        if size > self._size - self._at:
            self._fail("the file ends within its header")
        start, self._at = self._at, self._at + size
        return self._content[start : self._at]

    def _fail(self, reason: str) -> NoReturn:
        raise BackendError(one_line(f"{self._path} is not a readable GGUF file ({reason[:200]}): download it again"))
