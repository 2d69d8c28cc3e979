"""What a calibration has measured so far, one prompt a line, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sprinter.door import Door
from sprinter.errors import DataError
from sprinter.journal import Journal


@dataclass(frozen=True, slots=True)
class Measurement:
    """One prompt decoded at one threshold: its losses on the [0, 1] scale and what it cost."""

    losses: Mapping[str, float]
    num_tokens: int
    target_calls: int


@dataclass(frozen=True, slots=True)
class _Row(Measurement):
    threshold: float
    prompt: int


class Measurements(Journal):
    """The journal of a calibration, by threshold and prompt."""

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        """See `Journal`."""
        super().__init__(path, run, "calibration")
        door = Door(DataError, "delete it to begin the calibration anew")
        self._known: dict[tuple[float, int], Measurement] = {}
        for number, found in enumerate(self.rows, start=2):
            row = door.as_kind(found, _Row, f"{path}, line {number},")
            self._known[row.threshold, row.prompt] = row

    def __len__(self) -> int:
        return len(self._known)

    def get(self, threshold: float, prompt: int) -> Measurement | None:
        """What was measured for this prompt at this threshold, None if nothing was."""
        return self._known.get((threshold, prompt))

    def put(self, threshold: float, prompt: int, measured: Measurement) -> None:
        """Record a measurement."""
        self.add({"threshold": threshold, "prompt": prompt, **asdict(measured)})
        self._known[threshold, prompt] = measured
