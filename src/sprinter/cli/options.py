"""Settings as command-line options: name, type and help text come from the settings dataclasses."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import typer

from sprinter.config import PARTS

_PANELS = {"models": "Models", "decoding": "Decoding", "generation": "Text"}


def option(name: str, *flags: str) -> Any:
    """The typer option of the setting called `name`; unset unless given, so that a settings file can speak."""
    for part_name, part in PARTS.items():
        for field in fields(part):
            if field.name == name:
                default = field.default
                shown = None if default in (None, ()) else str(default)
                text = field.metadata["help"] + (f" [default: {shown}]" if shown is not None else "")
                flag = "--" + name.replace("_", "-")
                return typer.Option(None, flag, *flags, help=text, rich_help_panel=_PANELS[part_name])
    raise KeyError(name)
