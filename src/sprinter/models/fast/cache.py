"""Keys and values of one text's rows, and how loose rows hang together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import torch
from torch import Tensor

from sprinter.core.rows import Facts, FloatArray, Part, Views
from sprinter.errors import ConfigError
from sprinter.models.fast.config import Architecture, rotary_table

_FIRST_CAPACITY: Final = 256  # rows


class FastCache:
    """See `core.rows.Cache`. Row i in line lies in slot i, loose row i in slot length + i; grows by doubling."""

    def __init__(self, arch: Architecture, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """On a CPU `dtype` is best float32: one token's attention takes four times as long in bfloat16."""
        self.arch = arch  # of the one model this belongs to
        self.length = 0
        self.parents: list[int] = []  # of the loose rows
        self.depths: list[int] = []  # rows from the line's end to each loose row, itself included
        shape = (2, arch.num_layers, arch.num_kv_heads, 0, arch.head_dim)
        self.kv = torch.empty(shape, device=device, dtype=dtype)  # [key/value, layer, kv_head, slot, head_dim]
        self.capacity = 0  # slots

    def reserve(self, num_rows: int) -> None:
        """Make room for so many rows behind those there are."""
        held = self.length + len(self.parents)
        needed = held + num_rows
        if needed <= self.capacity:
            return
        capacity = max(self.capacity, _FIRST_CAPACITY)
        while capacity < needed:
            capacity *= 2
        # Branches side by side may hold more rows than the window has positions.
        self.capacity = max(needed, min(capacity, self.arch.context_length))
        with torch.inference_mode():
            shape = (*self.kv.shape[:3], self.capacity, self.arch.head_dim)
            grown = self.kv.new_empty(shape)
            grown[:, :, :, :held] = self.kv[:, :, :, :held]
        self.kv = grown

    def hang(self, parents: Sequence[int]) -> list[int]:
        """The depths of new loose rows with these parents; ConfigError for a parent that does not come before."""
        depths = [*self.depths, *parents]
        for i, parent in enumerate(parents, len(self.depths)):
            if not -1 <= parent < i:
                raise ConfigError(f"loose row {i} cannot hang behind row {parent}: a parent is -1 or comes before")
            depths[i] = 1 if parent < 0 else depths[parent] + 1
        return depths[len(self.depths) :]

    def trunk(self, parents: Sequence[int]) -> int:
        """How many of the loose rows with these parents, from the first on, go on with the line."""
        return next((i for i, parent in enumerate(parents) if parent != i - 1), len(parents))

    def keep(self, path: Sequence[int]) -> None:
        """See `core.rows.Cache`."""
        before = -1
        for row in path:
            if not 0 <= row < len(self.parents) or self.parents[row] != before:
                raise ConfigError(f"{list(path)} is no path through {len(self.parents)} loose rows")
            before = row
        moved = next((i for i, row in enumerate(path) if row != i), len(path))
        if moved < len(path):
            with torch.inference_mode():
                slots = torch.tensor(path[moved:], device=self.kv.device).add_(self.length)
                self.kv[:, :, :, self.length + moved : self.length + len(path)] = self.kv[:, :, :, slots]
        self.length += len(path)
        self._drop_loose()

    def truncate(self, length: int) -> None:
        """See `core.rows.Cache`."""
        if length < 0:
            raise ConfigError(f"a cache cannot keep {length} rows")
        self.length = min(self.length, length)
        self._drop_loose()

    def fork(self) -> Self:
        """See `core.rows.Cache`."""
        if self.parents:
            raise ConfigError(f"{len(self.parents)} loose rows hang in this cache: keep some or truncate it, then fork")
        twin = type(self)(self.arch, self.kv.device, self.kv.dtype)
        twin.reserve(self.length)
        with torch.inference_mode():
            twin.kv[:, :, :, : self.length] = self.kv[:, :, :, : self.length]
        twin.length = self.length
        return twin

    def _drop_loose(self) -> None:
        if self.parents:
            self.parents, self.depths = [], []


class Rotary:
    """The rotations of a model's positions, shared by its caches; grows by doubling up to the context length."""

    def __init__(self, arch: Architecture, device: torch.device) -> None:
        self._arch = arch
        self._device = device
        self._table = torch.empty(0)

    def upto(self, length: int) -> Tensor:
        """complex64 [positions, head_dim / 2] with at least `length` positions, or all there are."""
        table = self._table
        if len(table) < min(length, self._arch.context_length):
            positions = max(length, 2 * len(table), _FIRST_CAPACITY)
            table = rotary_table(self._arch, min(positions, self._arch.context_length)).to(self._device)
            # Two threads may both get here: each goes on with a table of its own that is long enough.
            self._table = table
        return table


def shared_out(parts: Sequence[Part], logits: FloatArray, hidden: FloatArray, facts: FloatArray) -> list[Views]:
    """The views of each part, from the rows wanted of all."""
    views, end = [], 0
    for part in parts:
        rows = slice(end, end := end + part.wanted)
        views.append(Views(logits[rows], hidden[rows], Facts(facts[rows])))
    return views
