"""Calls of tools that a model writes into its answer, in the form that open models' chat templates teach."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any, Final

BEGIN: Final = "<tool_call>"
_CALL: Final = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def calls_in(text: str) -> tuple[str, list[dict[str, Any]]]:
    """(what is left of the text, the calls in it); a call that is not sound JSON with a name stays text."""
    calls = []

    def take(found: re.Match[str]) -> str:
        call = _sound(found[1])
        if call is None:
            return found[0]
        calls.append(call)
        return ""

    left = _CALL.sub(take, text)
    return (left.strip() if calls else left), calls


def shown(text: str) -> str:
    """As much of a growing text as can be shown before it is known whether a call begins at its end."""
    place = text.find(BEGIN)
    if place >= 0:
        return text[:place]
    held = next((size for size in range(len(BEGIN) - 1, 0, -1) if text.endswith(BEGIN[:size])), 0)
    return text[: len(text) - held]


def _sound(text: str) -> dict[str, Any] | None:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("name"), str):
        return None
    arguments = told.get("arguments", {})
    function = {"name": told["name"], "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
