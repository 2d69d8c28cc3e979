"""A comparison's folder: what was asked (run.json) and one line per method and prompt (records.jsonl), append-only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sprinter.errors import ConfigError, DataError

FORMAT: Final = 1
RUN_FILE: Final = "run.json"
RECORDS_FILE: Final = "records.jsonl"

Record = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """A comparison as read back: what was asked, and what came of it so far."""

    run: Mapping[str, Any]
    records: list[Record]

    def of(self, method: str) -> dict[str, Record]:
        """Finished records of a method by prompt id."""
        return {r["prompt"]: r for r in self.records if r["method"] == method and "error" not in r}

    def failures(self, method: str) -> list[Record]:
        """The failure records of a method."""
        return [r for r in self.records if r["method"] == method and "error" in r]

    @property
    def methods(self) -> list[str]:
        return [method["name"] for method in self.run["methods"]]


class Journal:
    """The growing records of one comparison; a record is on disk the moment its run is over."""

    def __init__(self, folder: Path, records: list[Record]) -> None:
        self.folder = folder
        self._done = {(record["method"], record["prompt"]) for record in records}

    def has(self, method: str, prompt: str) -> bool:
        """Whether this method's run on this prompt is on record, failed ones included."""
        return (method, prompt) in self._done

    def add(self, record: Record) -> None:
        """Append one record as one line."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with (self.folder / RECORDS_FILE).open("a", encoding="utf-8") as stream:
            stream.write(line)
        self._done.add((record["method"], record["prompt"]))

    def __len__(self) -> int:
        return len(self._done)


def begin(folder: Path, run: Mapping[str, Any]) -> Journal:
    """Start a comparison in a folder that holds none. `run` (JSON types) says what was asked."""
    refuse_old(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RUN_FILE, json.dumps({"format": FORMAT, **run}, indent=1) + "\n")
    return Journal(folder, [])


def refuse_old(folder: Path) -> None:
    """ConfigError if the folder already holds a comparison."""
    if (folder / RUN_FILE).exists():
        raise ConfigError(f"{folder} already holds a comparison: add --resume to go on with it, or name another --out")


def resume(folder: Path, asked: Mapping[str, Any]) -> tuple[Results, Journal]:
    """Go on with a comparison; DataError unless it was asked for with the same settings (`asked`)."""
    results = read(folder, repair=True)
    found, wanted = results.run["asked"], json.loads(json.dumps(asked))
    changed = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if changed:
        raise DataError(
            f"{folder} holds a comparison with other settings ({', '.join(changed)}): give the same ones to resume it, "
            "or name another --out"
        )
    return results, Journal(folder, results.records)


def read(folder: Path, repair: bool = False) -> Results:
    """Read a comparison. `repair` cuts off a last line that a crash left half-written. Raises DataError."""
    file = folder / RUN_FILE
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no comparison in {folder} ({RUN_FILE}: {error.strerror}): sprinter bench makes one") from None
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}): start the comparison anew") from None
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise DataError(f"{file} is not of format {FORMAT}: it was made by another version of sprinter")
    return Results(run, _records(folder / RECORDS_FILE, repair))


def _records(file: Path, repair: bool) -> list[Record]:
    if not file.exists():
        return []
    raw = file.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if repair and len(whole) < len(raw):
        with file.open("r+b") as stream:
            stream.truncate(len(whole))
    records: list[Record] = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            raise DataError(f"{file} is damaged in line {number}: start the comparison anew") from None
        if not isinstance(record, dict) or not {"method", "prompt"} <= record.keys():
            raise DataError(f"{file}, line {number} is not a record: start the comparison anew")
        records.append(record)
    return records


def write_whole(file: Path, text: str) -> None:
    """Write beside, then rename: a file that exists is whole. DataError when it cannot be written."""
    beside = file.with_name(f".{file.name}.part")
    try:
        beside.write_text(text, encoding="utf-8", errors="replace")
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DataError(f"cannot write {file} ({error.strerror}): free some space or name another --out") from error
