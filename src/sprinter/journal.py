"""Long work on record: JSON lines that name the run and then hold one result each, so that a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sprinter.alone import hold
from sprinter.door import Door, seal, unseal
from sprinter.errors import DataError

_MOST_BYTES: Final = 1 << 20  # of one row that is not a text's whole account
_HEADER: Final = "journal"
_OPENING: Final = b'{"journal": {'


class Journal:
    """An append-only file of sealed lines: a header that says which run it is, then one row a line.

    A row is with the system the moment it is added: a killed process loses at most the line it was writing. A last
    line cut short is dropped at the next start; any other damage is refused, since a lost row would silently be made
    again. One process at a time.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], what: str = "run", most_bytes: int = _MOST_BYTES) -> None:
        """Open `path` for the run described by `run` (JSON types); create it, or resume if it is the same run.

        `what` names such a run in messages. Raises DataError for a file of another run, a damaged one, one that
        another process writes, or where it cannot be written.
        """
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._what = what
        self._door = Door(DataError, f"delete it to begin the {what} anew", strict=True, most_bytes=most_bytes)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Nothing may wait in a buffer: after a failed write it would be written once more by the next one.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            hold(self._file.fileno(), path)
            self._resume(json.loads(json.dumps({_HEADER: dict(run)})))
        except BaseException:
            self._file.close()
            raise

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row. DataError where there is no room: what was added before is kept."""
        self._append(seal(row))
        self.rows.append(dict(row))

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _resume(self, header: Mapping[str, Any]) -> None:
        """Take up what the file holds; begin it if that is nothing."""
        first, whole = seal(header), 0
        for number, line in enumerate(self._lines(), start=1):
            if number == 1 and not line.startswith(_OPENING) and not first.encode().startswith(line):
                raise DataError(f"{self.path} is not a journal of a {self._what}: name another file")
            if not line.endswith(b"\n"):
                break
            row = unseal(self._door, line, f"{self.path}, line {number},")
            if number == 1:
                self._compare(row, header)
            else:
                self.rows.append(row)
            whole += len(line)
        # Only now is it sure that the file is ours to cut.
        os.truncate(self.path, whole)
        if not whole:
            self._append(first)

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as stream:
            while line := stream.readline(self._door.most_bytes):
                yield line

    def _compare(self, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        theirs, ours = found[_HEADER], header[_HEADER]
        changed = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if changed:
            raise DataError(
                f"{self.path} belongs to another {self._what} ({', '.join(changed)} differ): give the same ones to go "
                "on with it, name another file, or delete it"
            )

    def _append(self, line: str) -> None:
        rest = memoryview(line.encode())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(
            f"cannot write {self.path}: {error.strerror}; what was done before is kept: make room or give a place "
            "that can be written, then give the same command again"
        )
