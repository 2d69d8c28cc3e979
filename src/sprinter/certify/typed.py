"""From parsed JSON to dataclasses, by their annotations and without any conversion."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from typing import Any

from sprinter.errors import CertificateError


def decode(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type `kind`, or CertificateError naming the place. No conversion: 1 stays 1 for a float."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, value, where)
    if origin is list and isinstance(value, list):
        return [decode(inner[0], item, f"{where}[{place}]") for place, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: decode(inner[1], item, f"{where}.{_printable(key)}") for key, item in value.items()}
    if origin is types.UnionType:
        for choice in inner:
            with contextlib.suppress(CertificateError):
                return decode(choice, value, where)
    elif _is_scalar(kind, value):
        return value
    raise CertificateError(f"{where} is {_printable(value)}, which cannot be right")


def _is_scalar(kind: Any, value: Any) -> bool:
    # type(), not isinstance(): True would pass for 1.
    if kind is float:
        return type(value) in (int, float) and abs(value) <= 1e300
    if kind is int:
        return type(value) is int and abs(value) <= 2**53
    return kind in (str, types.NoneType) and type(value) is kind


def _decode_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise CertificateError(f"{where} is {_printable(value)}, not an object")
    hints = typing.get_type_hints(kind)
    needed = {
        each.name
        for each in dataclasses.fields(kind)
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    }
    for problem, keys in (
        ("misses", needed - value.keys()),
        ("has the unknown key", value.keys() - hints.keys()),
    ):
        if keys:
            raise CertificateError(f"{where} {problem} {_printable(min(keys))}")
    return kind(**{name: decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items() if name in value})


def _printable(value: object) -> str:
    """A value from a damaged file, short and on one line."""
    try:
        text = ascii(value)
    except ValueError:
        return "a huge number"  # int to text is limited to 4,300 digits
    return text if len(text) <= 40 else text[:37] + "..."
