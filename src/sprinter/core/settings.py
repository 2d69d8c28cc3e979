"""Settings as frozen dataclasses: one typed field makes the flag, the file key, the keyword and the help text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from sprinter.errors import ConfigError

T = TypeVar("T")


def setting(default: Any, text: str) -> Any:
    """A dataclass field whose help text travels with it."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PartSettings:
    """What one part can be told. `DecodingConfig` is the union of all of ours, so it is checked part by part."""

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""


def from_mapping(part: type[T], values: Mapping[str, Any], source: str) -> T:
    """Build a settings dataclass; ConfigError names an unknown key or a wrong type, and `source`."""
    known = {f.name: f for f in fields(part)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{source}: unknown key {key!r}; known are {', '.join(known)}")
    return part(**{key: typed(str(known[key].type), value, f"{source}: {key}") for key, value in values.items()})


def from_words(part: type[T], words: Mapping[str, str], source: str) -> T:
    """The same from words, as a command line gives them."""
    return from_mapping(part, in_types(part, words), source)


def in_types(part: type[Any], words: Mapping[str, str]) -> dict[str, Any]:
    """Words as numbers where the settings of `part` are numbers; what does not read as one stays a word."""
    kinds = {f.name: str(f.type) for f in fields(part)}
    return {name: _read(kinds.get(name, ""), word) for name, word in words.items()}


def choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}, but must be one of {', '.join(allowed)}")


def typed(annotation: str, value: Any, where: str) -> Any:
    """`value` as its annotation wants it. Raises ConfigError, naming `where`, for another type."""
    if annotation.startswith("tuple"):
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise ConfigError(f"{where} must be a list of strings, not {value!r}")
    if "float" in annotation and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if "int" in annotation and isinstance(value, int) and not isinstance(value, bool):
        return value
    if "float" not in annotation and "int" not in annotation and isinstance(value, str):
        return value
    raise ConfigError(f"{where} must be {annotation.replace(' | None', '')}, not {value!r}")


def _read(annotation: str, word: str) -> Any:
    if annotation.startswith("tuple"):
        return (word,)
    for name, kind in (("float", float), ("int", int)):
        if name in annotation:
            try:
                return kind(word)
            except ValueError:
                return word  # `typed` says what is wrong
    return word
