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
                shown = f"{default:g}" if isinstance(default, float) else str(default)
                text = field.metadata["help"] + ("" if default in (None, ()) else f" [default: {shown}]")
                return typer.Option(
                    None,
                    "--" + name.replace("_", "-"),
                    *flags,
                    help=text.replace("[", r"\["),  # else the help page takes it for markup
                    rich_help_panel=_PANELS[part_name],
                )
    raise KeyError(name)
