"""What a calibration has measured so far, one prompt a line, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sprinter.door import Door
from sprinter.errors import DataError
from sprinter.journal import Journal


@dataclass(frozen=True, slots=True)
class Measurement:
    """One prompt decoded at one threshold: its losses (a value a token, or one a text) and what it cost."""

    losses: Mapping[str, Sequence[float]]
    num_tokens: int
    target_calls: int


@dataclass(frozen=True, slots=True)
class _Row:
    threshold: float
    prompt: int
    losses: dict[str, list[float]]
    num_tokens: int
    target_calls: int


class Measurements(Journal):
    """The journal of a calibration, by threshold and prompt."""

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        """See `Journal`."""
        super().__init__(path, run, "calibration")
        door = Door(DataError, "delete it to begin the calibration anew")
        self._known: dict[tuple[float, int], Measurement] = {}
        for number, found in enumerate(self.rows, start=2):
            row = door.as_kind(found, _Row, f"{path}, line {number},")
            self._known[row.threshold, row.prompt] = Measurement(row.losses, row.num_tokens, row.target_calls)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, threshold: float, prompt: int) -> Measurement | None:
        """What was measured for this prompt at this threshold, None if nothing was."""
        return self._known.get((threshold, prompt))

    def put(self, threshold: float, prompt: int, measured: Measurement) -> None:
        """Record a measurement."""
        self.add({"threshold": threshold, "prompt": prompt, **asdict(measured)})
        self._known[threshold, prompt] = measured
