"""sprinter generate --file: many texts in company, written in the order of their prompts, resumable."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import typer

from sprinter import __version__
from sprinter.api import Request, Sprinter
from sprinter.build import Pair
from sprinter.cli import show
from sprinter.cli.progress import progress_bar
from sprinter.config import Config
from sprinter.core.records import Generation
from sprinter.door import Door, as_json
from sprinter.errors import CertificateWarning, ConfigError, DataError, SprinterError
from sprinter.journal import Journal
from sprinter.writing import whole

EXIT_SOME_FAILED: Final = 2
_MOST_BYTES: Final = 1 << 30
_DOOR: Final = Door(DataError, "give UTF-8 text or JSON lines, a prompt each", most_bytes=_MOST_BYTES, pipes=True)
_PROMPTS: Final = ("prompt", "messages")

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A file of prompts and what is to become of it."""

    file: Path
    out: Path
    batch: int
    chat: bool
    whole_account: bool  # every token with its origin too
    schedule: str  # see `Sprinter.from_pretrained`


@dataclass(frozen=True)
class Entry:
    """One prompt of the file: what to write, or why that cannot be."""

    line: int
    request: Request | SprinterError


def write_many(job: Job, config: Config, wish: Mapping[str, Any], named: Collection[str] = ()) -> int:
    """Write all texts of a job; the exit code. `named`: settings the user gave, even if they are the default.

    Raises ConfigError or DataError where nothing can be begun.
    """
    if job.out.exists():
        raise ConfigError(f"{job.out} is there already: name another --out, or delete it")
    content = _DOOR.read(job.file)
    entries = read_entries(job.file, content)
    if not entries:
        raise DataError(f"{job.file} holds no prompts: write one a line")
    settings = _given(config, named) | {name: value for name, value in wish.items() if value is not None}
    run = {
        "prompts": sha256(content).hexdigest(),
        "models": dataclasses.asdict(config.models),
        "settings": json.loads(json.dumps(settings, default=str)),
        "chat": job.chat,
        "whole_account": job.whole_account,
        "schedule": job.schedule,
        "sprinter": __version__,
    }
    beside = job.out.with_name(job.out.name + ".part")
    with Journal(beside, run, "list of texts", most_bytes=_MOST_BYTES) as journal:
        if journal.rows:
            typer.echo(f"going on with {beside}: {len(journal.rows)} of {len(entries)} are written", err=True)
        _write(
            job,
            _seeded(entries, settings.pop("seed", None)),
            Sprinter(Pair(config.models), job.schedule),
            settings,
            journal,
        )
        failed = [row for row in journal.rows if "error" in row]
        with whole(job.out) as file, file.open("w", encoding="utf-8") as stream:
            stream.writelines(as_json(row) + "\n" for row in journal.rows)
    beside.unlink()
    _report(job, journal.rows, failed)
    return EXIT_SOME_FAILED if failed else 0


def read_entries(file: Path, content: bytes) -> list[Entry]:
    """The prompts of a file: JSON lines (`prompt` or `messages`, with settings beside) by its ending, else lines.

    A line that cannot be read is an entry with its error, so that it fails alone. Raises DataError for no UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _DOOR.refuse(f"{file} is not UTF-8 text (byte {error.start})") from None
    lines = [(n, line.removesuffix("\r")) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if file.suffix.lower() not in (".jsonl", ".ndjson", ".json"):
        return [Entry(number, Request(line)) for number, line in lines]
    return [Entry(number, _request(line, f"{file}, line {number}")) for number, line in lines]


def _request(line: str, where: str) -> Request | SprinterError:
    try:
        row = Door(DataError, "write one object a line", strict=True).parse(line, Row, where)
    except DataError as error:
        return error
    given = [name for name in _PROMPTS if name in row]
    if len(given) != 1:
        return DataError(f"{where} must have either 'prompt' or 'messages'")
    prompt: Any = row.pop(given[0])
    kind = str if given[0] == "prompt" else list
    if not isinstance(prompt, kind) or not all(isinstance(message, dict) for message in prompt if kind is list):
        return DataError(f"{where}: {given[0]!r} must be {'a string' if kind is str else 'a list of messages'}")
    return Request(prompt, row)  # type: ignore[arg-type]  # names and types are checked where the text begins


def _given(config: Config, named: Collection[str]) -> Row:
    """The settings of a Config that are not the default, and a length that is, by name."""
    parts = (config.decoding, config.generation)
    return {
        field.name: getattr(part, field.name)
        for part in parts
        for field in dataclasses.fields(part)
        if getattr(part, field.name) != field.default or (field.name == "max_new_tokens" and field.name in named)
    }


def _seeded(entries: Sequence[Entry], seed: int | None) -> list[Entry]:
    """The entries with a seed each, by their place in the file: a resumed run gives them the same."""
    if seed is None:
        return list(entries)
    return [
        Entry(e.line, Request(e.request.prompt, {"seed": seed + place, **e.request.settings}))
        if isinstance(e.request, Request)
        else e
        for place, e in enumerate(entries)
    ]


def _write(job: Job, entries: Sequence[Entry], sprinter: Sprinter, settings: Row, journal: Journal) -> None:
    """Add the rows that the journal lacks, in the order of the entries."""
    done = len(journal.rows)
    with progress_bar("texts", len(entries)) as shown, warnings.catch_warnings():
        warnings.simplefilter("always", CertificateWarning)
        warnings.showwarning = _once()
        shown(done, len(entries))
        for place, made in _in_order(_made(job, entries[done:], sprinter, settings)):
            entry = entries[done + place]
            row = _row(entry, made, job.whole_account)
            journal.add({"index": done + place, "line": entry.line, **row})
            shown(done + place + 1, len(entries))


def _made(
    job: Job, entries: Sequence[Entry], sprinter: Sprinter, settings: Row
) -> Iterator[tuple[int, Generation | SprinterError]]:
    """(place, text or error) as they are done."""
    good = [(place, entry.request) for place, entry in enumerate(entries) if isinstance(entry.request, Request)]
    yield from ((place, e.request) for place, e in enumerate(entries) if isinstance(e.request, SprinterError))
    texts = sprinter.generate_many([request for _, request in good], chat=job.chat, batch=job.batch, **settings)
    yield from ((good[place][0], made) for place, made in texts)


def _in_order(
    made: Iterator[tuple[int, Generation | SprinterError]],
) -> Iterator[tuple[int, Generation | SprinterError]]:
    waiting: dict[int, Generation | SprinterError] = {}
    due = 0
    for place, found in made:
        waiting[place] = found
        while due in waiting:
            yield due, waiting.pop(due)
            due += 1


def _row(entry: Entry, made: Generation | SprinterError, whole_account: bool) -> Row:
    if isinstance(made, SprinterError):
        asked = entry.request.prompt if isinstance(entry.request, Request) else None
        return {"prompt": asked, "error": " ".join(str(made).split())}
    account = show.account(made)
    return account if whole_account else {name: value for name, value in account.items() if name != "tokens"}


def _once() -> Any:
    """Shows each warning the first time it comes, in one line."""
    met: set[str] = set()

    def show_warning(message: Warning | str, *_: Any) -> None:
        if str(message) not in met:
            met.add(str(message))
            typer.echo(str(message), err=True)

    return show_warning


def _report(job: Job, rows: Sequence[Row], failed: Sequence[Row]) -> None:
    good = [row for row in rows if "error" not in row]
    tokens = sum(row["num_tokens"] for row in good)
    typer.echo(f"{len(good)} texts of {tokens} tokens written to {job.out}", err=True)
    for row in failed[:10]:
        typer.echo(f"{job.file}, line {row['line']}: {row['error']}", err=True)
    if len(failed) > 10:
        typer.echo(f"... and {len(failed) - 10} more", err=True)
