"""Keys and values of one text's rows, and how loose rows hang together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor

from sprinter.core.rows import Facts, FloatArray, Part, Views
from sprinter.models.base import Line
from sprinter.models.fast.config import Architecture, rotary_table

_FIRST_CAPACITY: Final = 256  # rows


class FastCache(Line):
    """See `core.rows.Cache`. Row i in line lies in slot i, loose row i in slot length + i; grows by doubling."""

    def __init__(self, arch: Architecture, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """On a CPU `dtype` is best float32: one token's attention takes four times as long in bfloat16."""
        super().__init__()
        self.arch = arch  # of the one model this belongs to
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
        shape = (*self.kv.shape[:3], self.capacity, self.arch.head_dim)
        grown = torch.empty(shape, device=self.kv.device, dtype=self.kv.dtype)
        _copy(self.kv[:, :, :, :held], grown[:, :, :, :held])
        self.kv = grown

    def keep(self, path: Sequence[int]) -> None:
        """See `core.rows.Cache`."""
        self.check_path(path)
        for place, row in enumerate(path):
            if row != place:  # a row moves forward, to where one stood that has moved or falls
                _copy(self.kv[:, :, :, self.length + row], self.kv[:, :, :, self.length + place])
        self.settle(len(path))

    def truncate(self, length: int) -> None:
        """See `core.rows.Cache`."""
        self.cut(length)

    def fork(self) -> Self:
        """See `core.rows.Cache`."""
        self.check_fork()
        twin = type(self)(self.arch, self.kv.device, self.kv.dtype)
        twin.reserve(self.length)
        _copy(self.kv[:, :, :, : self.length], twin.kv[:, :, :, : self.length])
        twin.length = self.length
        return twin


def _copy(source: Tensor, to: Tensor) -> None:
    if to.device.type == "cpu":
        # Not torch's copy: in a forked process it would wait for threads that are gone.
        np.copyto(to.numpy(), source.numpy())
    else:
        to.copy_(source)


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
