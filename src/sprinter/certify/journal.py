"""What a calibration has measured so far, one line per prompt, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from sprinter.alone import hold
from sprinter.errors import DataError

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """One prompt decoded at one threshold: its losses on the [0, 1] scale and what it cost."""

    losses: Mapping[str, float]
    num_tokens: int
    target_calls: int


class Journal:
    """An append-only JSONL file: a header naming the run, then one measurement a line.

    A last line cut short by a crash is dropped; any other damage is a DataError, since a lost line in the middle
    would silently be measured again. One process at a time: DataError where another is writing it.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        """Open `path` for the run described by `run` (JSON types); create it, or resume if it is the same run."""
        self._path = path
        self._known: dict[tuple[float, int], Measurement] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"journal": _FORMAT, **json.loads(json.dumps(run))}
        # Nothing may wait in a buffer: after a failed write it would be written once more by the next, or at the end.
        self._file: FileIO = path.open("ab", buffering=0)
        try:
            hold(self._file.fileno(), path)
            self._resume(header)
        except BaseException:
            self._file.close()
            raise

    def _resume(self, header: Mapping[str, Any]) -> None:
        """Take up what the file holds; begin it if that is nothing."""
        path = self._path
        raw = path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if whole:
            self._read(self._text(whole).splitlines(), header)
        elif not _line(header).encode().startswith(raw):
            raise DataError(f"{path} is not a journal: name another file")
        if len(whole) < len(raw):
            # Only now is it sure that the file is ours to cut.
            with path.open("r+b") as file:
                file.truncate(len(whole))
        if not whole:
            self._append(header)

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"journal {self._path} is not text: delete it to calibrate anew") from None

    def _read(self, lines: list[str], header: Mapping[str, Any]) -> None:
        found = self._object(lines[0], 1)
        changed = sorted(key for key in header.keys() | found.keys() if header.get(key) != found.get(key))
        if changed:
            raise DataError(
                f"journal {self._path} belongs to another calibration ({', '.join(changed)} differ): name another "
                "file, or delete it to calibrate anew"
            )
        for number, line in enumerate(lines[1:], start=2):
            row = self._object(line, number)
            try:
                losses = {str(name): float(loss) for name, loss in row["losses"].items()}
                measured = Measurement(losses, int(row["tokens"]), int(row["calls"]))
                key = (float(row["threshold"]), int(row["prompt"]))
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                raise self._damaged(number) from None
            if not all(0.0 <= loss <= 1.0 for loss in losses.values()) or math.isnan(key[0]):
                raise self._damaged(number)
            self._known[key] = measured

    def _object(self, line: str, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise self._damaged(number) from None
        if not isinstance(row, dict):
            raise self._damaged(number)
        return row

    def _damaged(self, number: int) -> DataError:
        return DataError(f"journal {self._path} is damaged in line {number}: delete it to calibrate anew")

    def _append(self, row: Mapping[str, Any]) -> None:
        # Handed to the system at once: a killed process loses at most the line it was writing.
        line = memoryview(_line(row).encode())
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise DataError(
                f"cannot write {self._path}: {error.strerror}; what was measured before is kept: make room, then give "
                "the same command again"
            ) from None

    def __len__(self) -> int:
        return len(self._known)

    def get(self, threshold: float, prompt: int) -> Measurement | None:
        """What was measured for this prompt at this threshold, None if nothing was."""
        return self._known.get((threshold, prompt))

    def add(self, threshold: float, prompt: int, measured: Measurement) -> None:
        """Record a measurement."""
        self._known[threshold, prompt] = measured
        self._append(
            {
                "threshold": threshold,
                "prompt": prompt,
                "losses": dict(measured.losses),
                "tokens": measured.num_tokens,
                "calls": measured.target_calls,
            }
        )

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
