"""The clock of a comparison: one counter of ids, one timer, one look at memory, the same for every method."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Stopwatch:
    """Counts the ids a method hands out and when; what comes after an end of text or the limit is not counted."""

    def __init__(self, limit: int, eos_ids: frozenset[int], device: str) -> None:
        self.ids: list[int] = []
        self.times_s: list[float] = []  # since the start, one per id
        self.seconds = 0.0
        self._limit, self._eos_ids, self._device = limit, eos_ids, device
        self._started = 0.0

    def __enter__(self) -> Stopwatch:
        synchronise(self._device)
        self._started = perf_counter()
        return self

    def __exit__(self, *_error: object) -> None:
        # Kernels still in flight belong to the run that launched them.
        synchronise(self._device)
        self.seconds = perf_counter() - self._started

    def emit(self, ids: Sequence[int]) -> None:
        """Take in ids that have just become final."""
        now = perf_counter() - self._started
        for token in ids:
            if len(self.ids) == self._limit or (self.ids and self.ids[-1] in self._eos_ids):
                return
            self.ids.append(int(token))
            self.times_s.append(now)


def synchronise(device: str) -> None:
    """Wait for a CUDA device's queue; nothing to wait for on a CPU."""
    if device.startswith("cuda"):
        import torch  # noqa: PLC0415 - slow import

        torch.cuda.synchronize(device)


class MemoryPeak:
    """Peak memory while it is entered: `peak_mib` of the process (of the device, on CUDA), `rise_mib` over the start.

    Every model of a comparison lives in one process, so only the rise tells methods apart on a CPU. None where the
    system cannot reset its high-water mark.
    """

    def __init__(self, device: str) -> None:
        self.peak_mib: float | None = None
        self.rise_mib: float | None = None
        self._device = device
        self._before: float | None = None

    def __enter__(self) -> MemoryPeak:
        if self._device.startswith("cuda"):
            import torch  # noqa: PLC0415

            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device) / 2**20
        elif _reset_high_water():
            self._before = _status_mib("VmRSS")
        return self

    def __exit__(self, *_error: object) -> None:
        if self._device.startswith("cuda"):
            import torch  # noqa: PLC0415

            self.peak_mib = torch.cuda.max_memory_allocated(self._device) / 2**20
        elif self._before is not None:
            self.peak_mib = _status_mib("VmHWM")
        else:
            self.peak_mib = _process_peak_mib()
        if self.peak_mib is not None and self._before is not None:
            self.rise_mib = max(0.0, self.peak_mib - self._before)


def _reset_high_water() -> bool:
    """Whether the kernel started a new high-water mark (Linux: "5" into clear_refs, see proc(5))."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _status_mib(name: str) -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) / 1024 if values else None


def _process_peak_mib() -> float | None:
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def latency_summary(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Speed over finished runs: pooled tokens/s, per-token latency (median and p90 over prompts), first token, gaps.

    A run's latency per token is its seconds over its tokens. A gap is the wait for a token after the one before;
    tokens that come out together have gaps of 0.
    """
    rows = [row for row in rows if row["ids"]]
    if not rows:
        return dict.fromkeys(
            ("tokens_per_s", "ms_per_token_median", "ms_per_token_p90", "ttft_ms_median", "gap_ms_p90")
        )
    per_token = [1000 * row["seconds"] / len(row["ids"]) for row in rows]
    gaps = [gap for row in rows for gap in np.diff(row["times_ms"]).tolist()]
    return {
        "tokens_per_s": sum(len(row["ids"]) for row in rows) / sum(row["seconds"] for row in rows),
        "ms_per_token_median": float(np.median(per_token)),
        "ms_per_token_p90": float(np.percentile(per_token, 90)),
        "ttft_ms_median": float(np.median([row["times_ms"][0] for row in rows])),
        "gap_ms_p90": float(np.percentile(gaps, 90)) if gaps else None,
    }
