"""sprinter chat: talk to the target at a terminal, here or on a server, under any contract."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import typer

from sprinter.cli.options import PAIR, SAMPLING, Given, with_settings
from sprinter.errors import ConfigError, SprinterError

_HELP: Final = """\
/exact               from now on the target's own law
/certified LEVEL     from now on at most this share of implausible tokens, by certificate
/best                from now on the verifier's own threshold, nothing promised
/seed N              seed of the answers to come; /seed alone: another for each
/system TEXT         begin anew under this system message
/reset               begin anew
/save FILE           write the chat as JSON
/help                this list
/quit                leave, as Ctrl-D does; Ctrl-C stops an answer and keeps the chat"""


@dataclass
class Talk:
    """A chat and how it is answered."""

    system: str | None = None
    contract: dict[str, Any] = field(default_factory=lambda: {"contract": "best_effort"})
    seed: int | None = None
    said: list[dict[str, str]] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, str]]:
        """What goes to the model."""
        return [*([] if self.system is None else [{"role": "system", "content": self.system}]), *self.said]


Piece = tuple[str, str]  # text, origin


class Speaker(Protocol):
    """Answers a chat."""

    def answer(self, talk: Talk) -> Iterator[Piece]:
        """The answer as it comes; the generator's end is the text's, and closing it stops the text."""

    def account(self) -> str:
        """A line on the last answer."""


@with_settings(*PAIR, "max_new_tokens", *SAMPLING)
def chat(
    settings: Given,
    system: str | None = typer.Option(None, "--system", help="System message."),
    server: str | None = typer.Option(None, "--server", help="Talk to a running sprinter serve: http://HOST:PORT."),
    api_key_env: str | None = typer.Option(None, "--api-key-env", help="With --server: variable that holds its key."),
    color: bool = typer.Option(False, "--color", help="Paint each token by where it came from."),
) -> None:
    """Talk to the model. Each answer ends with what it cost; /help lists what can be changed on the way.

    Examples:

      sprinter chat

      sprinter chat --system "Answer in one sentence." --temperature 0.7 --top-p 0.9

      sprinter chat --server http://127.0.0.1:8080
    """
    if server is None and api_key_env is not None:
        raise ConfigError("--api-key-env does nothing without --server")
    speaker: Speaker
    if server is None:
        from sprinter.cli.speakers import Here

        speaker = Here(settings)
    else:
        from sprinter.cli.speakers import There

        idle = [name for name in PAIR if settings[name] is not None]
        if idle:
            raise ConfigError(f"--{idle[0]} does nothing with --server: the server has its own")
        speaker = There(server, os.environ.get(api_key_env) if api_key_env else None, settings)
    _converse(Talk(system), speaker, color)


def _converse(talk: Talk, speaker: Speaker, color: bool) -> None:
    if sys.stdin.isatty():
        import readline  # noqa: F401 - editing and history of what is typed

        typer.echo("Type a message, or /help. Ctrl-D leaves.", err=True)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            typer.echo("\n(Ctrl-D leaves)", err=True)
            continue
        if not line:
            continue
        if line.startswith("/"):
            if line == "/quit":
                return
            try:
                typer.echo(obey(talk, line), err=True)
            except SprinterError as error:
                typer.echo(str(error), err=True)
            continue
        _say(talk, speaker, line, color)


def _say(talk: Talk, speaker: Speaker, line: str, color: bool) -> None:
    from sprinter.cli import show

    talk.said.append({"role": "user", "content": line})
    written, answer = "", speaker.answer(talk)
    try:
        for text, origin in answer:
            mark = show.COLOURS[origin] if color and origin else ""  # type: ignore[index]
            shown = show.printable(text)
            sys.stdout.write(f"{mark}{shown}{show.RESET}" if mark else shown)
            sys.stdout.flush()
            written += text
        typer.echo(f"\n{speaker.account()}\n", err=True)
    except KeyboardInterrupt:
        typer.echo("\n(stopped)\n", err=True)
    except SprinterError as error:
        talk.said.pop()
        typer.echo(str(error), err=True)
        return
    finally:
        answer.close()  # type: ignore[attr-defined]
        sys.stdout.write("\n" if not sys.stdout.isatty() else "")
    talk.said.append({"role": "assistant", "content": written})


def obey(talk: Talk, line: str) -> str:
    """Do what a line that begins with / asks for; what to tell. Raises ConfigError for what cannot be."""
    name, _, value = line.partition(" ")
    value = value.strip()
    if name == "/help":
        return _HELP
    if name in ("/exact", "/best"):
        talk.contract = {"contract": "exact" if name == "/exact" else "best_effort"}
        return f"contract: {talk.contract['contract']}"
    if name == "/certified":
        talk.contract = {"contract": "certified", "max_atypical": _number(value, name, float)}
        return f"contract: certified, at most {talk.contract['max_atypical']:g} implausible tokens"
    if name == "/seed":
        talk.seed = _number(value, name, int) if value else None
        return "seed: another for each answer" if talk.seed is None else f"seed: {talk.seed}"
    if name in ("/system", "/reset"):
        talk.system = value or None if name == "/system" else talk.system
        talk.said.clear()
        return "a new chat"
    if name == "/save":
        return _save(talk, value)
    raise ConfigError(f"there is no {name}: /help lists what there is")


def _save(talk: Talk, name: str) -> str:
    from sprinter.door import as_json
    from sprinter.writing import write_text

    if not name:
        raise ConfigError("/save needs a file: /save chat.json")
    file = Path(name).expanduser()
    try:
        write_text(file, as_json({"messages": talk.messages}) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from None
    return f"saved to {file}"


def _number(value: str, name: str, kind: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"{name} needs a number, not {value!r}") from None
