"""Settings as command-line options: name, type and help text come from the settings dataclasses."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import typer

from sprinter.config import PARTS, DecodingConfig

PAIR = ("target", "draft", "verifier", "backend", "weights", "device")
DECODING = ("method", *(field.name for field in fields(DecodingConfig) if field.name not in ("method", "references")))
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
BUDGET = ("max_total_tv", "max_atypical_tokens")

Given = dict[str, Any]  # settings by name; None where an option was not given, so that a settings file can speak
Command = Callable[..., None]

_PANELS = {"models": "Models", "decoding": "Decoding", "generation": "Text"}
_SHORT = {"method": "-m", "max_new_tokens": "-n", "temperature": "-t"}
_FLAGS = {"options": "--option"}  # given once for each


def with_settings(*names: str) -> Callable[[Command], Command]:
    """Append the options of these settings to a command, which gets what was given as its argument `settings`.

    >>> @with_settings(*PAIR, "seed")               # doctest: +SKIP
    ... def show(settings: Given) -> None: ...      # sprinter show --target .. --seed 3
    """
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)
        for name, (kind, option) in ((name, _option(name)) for name in names)
    ]

    def extend(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "settings"]

        def run(**values: Any) -> None:
            settings = {name: values.pop(name) for name in names}
            command(**values, settings=settings)

        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        # What typer reads; wraps() would lead it to the command itself, without the options.
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options)}
        run.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return run

    return extend


def _option(name: str) -> tuple[Any, Any]:
    """The type of the setting called `name`, and its typer option."""
    for part_name, part in PARTS.items():
        for field in fields(part):
            if field.name == name:
                default = field.default
                shown = f"{default:g}" if isinstance(default, float) else str(default)
                text = field.metadata["help"] + ("" if default in (None, ()) else f" [default: {shown}]")
                flags = [_FLAGS.get(name, "--" + name.replace("_", "-")), *([_SHORT[name]] if name in _SHORT else [])]
                return _type(str(field.type)), typer.Option(
                    None,
                    *flags,
                    help=text.replace("[", r"\["),  # else the help page takes it for markup
                    rich_help_panel=_PANELS[part_name],
                )
    raise KeyError(name)


def _type(annotation: str) -> Any:
    """What an option takes for a field of this annotation; a choice of words is checked by its dataclass."""
    if annotation.startswith("tuple"):
        return list[str] | None
    for word, kind in (("float", float | None), ("int", int | None)):
        if word in annotation:
            return kind
    return str | None
