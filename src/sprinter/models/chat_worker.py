"""Renders chat templates in a process of its own: a line of JSON in, a line of JSON out; see `chat.py`.

A template is a program that came with a model. The sandbox keeps it from everything but text, and this process can be
given little memory and be ended when it takes too long; it imports nothing of Sprinter.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: marks what the assistant wrote, for training. Its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's, without names that lead into Python's inside."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        given = dict(*args[1:], **kwargs)
        for name in given:
            _check(name)
        jinja2.utils.Namespace.__init__(args[0], given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check(name)
        super().__setitem__(name, value)


def _check(name: str) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


class _Dict:
    """`dict` as templates use it, and nothing else of it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    # What transformers offers to templates.
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_refuse,
        strftime_now=lambda form: datetime.now().strftime(form),
        dict=_Dict(),
        namespace=_Namespace,
    )
    return environment.from_string(template)


def render(asked: dict[str, Any]) -> dict[str, str]:
    """{"text"} or, in one line, {"error"}."""
    try:
        parts, length = [], 0
        for part in _compiled(asked["template"]).generate(**asked["variables"]):
            parts.append(part)
            length += len(part)
            if length > asked["most_characters"]:
                return {"error": f"it writes more than {asked['most_characters']} characters"}
        return {"text": "".join(parts)}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except Exception as error:  # a template can fail in any way a program can
        return {"error": ((str(error).strip() or type(error).__name__).splitlines() or ["?"])[0][:200]}


def main() -> None:
    """Answer until there is nothing more to read. Arguments: most bytes of memory."""
    with suppress(ImportError, ValueError, OSError):  # no such limits on Windows: there only time is limited
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(render(json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
