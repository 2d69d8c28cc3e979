"""Keys and values of texts in a transformers model, and the masks of passes over rows of several of them.

Imported late: transformers takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache, DynamicCache

from sprinter.core.rows import Part
from sprinter.models.base import Line


class HFCache(Line):
    """One text's keys and values; the columns of every layer are the rows in line, then the loose ones."""

    def __init__(self, owner: object, tokens: Sequence[int] = (), far: bool = False) -> None:
        """`owner`: the model that opened it; `tokens`: those in line; `far`: see `HFModel`."""
        super().__init__(len(tokens))
        self.owner = owner
        self.tokens = list(tokens)  # of every column
        self.far = far
        # Made without a config every layer keeps all tokens; layers that forget behind a sliding window
        # could not be rolled back. The masks apply the window.
        self.columns: Any = DynamicCache()

    def keep(self, path: Sequence[int]) -> None:
        self.check_path(path)
        if list(path) != list(range(len(path))):
            places = torch.tensor([*range(self.length), *(self.length + row for row in path)])
            for layer in self._filled():
                layer.keys = layer.keys.index_select(-2, places.to(layer.keys.device))
                layer.values = layer.values.index_select(-2, places.to(layer.values.device))
            self.tokens = [self.tokens[place] for place in places.tolist()]
        self.settle(len(path))
        self._crop()

    def truncate(self, length: int) -> None:
        self.cut(length)
        self._crop()

    def fork(self) -> HFCache:
        self.check_fork()
        twin = HFCache(self.owner, self.tokens, self.far)
        for number, layer in enumerate(self.columns.layers):
            if layer.is_initialized:
                # Shared until one of the two grows: that makes new tensors and never writes into these.
                twin.columns.update(layer.keys, layer.values, number)
        return twin

    def is_chain(self, part: Part) -> bool:
        """Whether the rows of `part` follow one another and all rows of the cache, as in a plain pass."""
        parents = [*self.parents, *(part.parents or ())]
        return parents == list(range(-1, len(parents) - 1))

    def add(self, part: Part, positions: Sequence[int]) -> None:
        super().add(part, positions)
        self.tokens.extend(part.tokens)

    def restart(self, far: bool) -> None:
        """Forget everything; what `mark` gave before stays whole."""
        self.columns, self.tokens, self.far, self.length = DynamicCache(), [], far, 0

    def mark(self) -> tuple[Any, ...]:
        """The state to which `roll_back` returns."""
        return self.columns, self.tokens, self.far, self.length, len(self.parents)

    def roll_back(self, mark: tuple[Any, ...]) -> None:
        """Return to an earlier state, from within a pass as well."""
        self.columns, self.tokens, self.far, self.length, num_loose = mark
        del self.parents[num_loose:], self.positions[num_loose:]
        self._crop()

    def _crop(self) -> None:
        num_rows = self.length + len(self.parents)
        del self.tokens[num_rows:]
        for layer in self._filled():
            layer.keys, layer.values = layer.keys[..., :num_rows, :], layer.values[..., :num_rows, :]

    def _filled(self) -> list[Any]:
        return [layer for layer in self.columns.layers if layer.is_initialized]


class Company(Cache):  # type: ignore[misc]  # transformers is untyped
    """The caches of several texts as the one padded cache of a pass; what it adds goes into each text's own.

    new rows   . . a        columns    A A A a .
               b c d                   B b c d .
               . e f                   C C C e f
    """

    def __init__(self, columns: Sequence[Any], num_new: Sequence[int]) -> None:
        """`columns`: a DynamicCache of each text; `num_new`: its rows in this pass, the last ones of a padded row."""
        super().__init__(layers=[])
        self._columns = columns
        self._num_new = num_new

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of all texts [texts, heads, columns, width], the new ones [texts, heads, rows, width] too."""
        grown = [
            columns.update(keys[None, :, -new:], values[None, :, -new:], layer_idx, *args, **kwargs)
            for columns, new, keys, values in zip(self._columns, self._num_new, key_states, value_states, strict=True)
        ]
        return _padded([keys for keys, _ in grown]), _padded([values for _, values in grown])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(int(columns.get_seq_length(layer_idx)) for columns in self._columns)


def _padded(columns: list[Tensor]) -> Tensor:
    """One tensor of tensors [1, heads, columns, width], zeros behind the shorter ones."""
    longest = max(c.shape[-2] for c in columns)
    if all(c.shape[-2] == longest for c in columns):
        return torch.cat(columns)
    shape = (len(columns), columns[0].shape[1], longest, columns[0].shape[-1])
    padded = columns[0].new_zeros(shape)
    for row, column in zip(padded, columns, strict=True):
        row[:, : column.shape[-2]] = column[0]
    return padded


def sight(cache: HFCache, part: Part, positions: Sequence[int], window: int | None) -> NDArray[np.bool_]:
    """Which columns of its cache the rows of `part` see, [rows, columns], the new ones included.

    With a `window` a row sees only what is less than so many positions before it.
    """
    line, num_loose = cache.length, len(cache.parents)
    parents = [*cache.parents, *(part.parents if part.parents is not None else range(-1, len(part.tokens) - 1))]
    above = np.zeros((len(parents), len(parents)), bool)  # [loose, loose]: itself and its ancestors
    for row, parent in enumerate(parents):
        if parent >= 0:
            above[row] = above[parent]
        above[row, row] = True
    seen = np.concatenate([np.ones((len(part.tokens), line), bool), above[num_loose:]], axis=1)
    if window is not None:
        columns = np.array([*range(line), *cache.positions, *positions])
        seen &= np.asarray(positions)[:, None] - columns < window
    return seen


def additive(seen: Sequence[NDArray[np.bool_]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The mask of a padded pass [texts, 1, rows, columns]: 0 where a row sees a column, else a very negative number.

    Eager attention adds a mask to its scores, so one of truth values would be silently wrong.
    """
    num_rows, num_columns = (max(s.shape[axis] for s in seen) for axis in (0, 1))
    whole = np.zeros((len(seen), 1, num_rows, num_columns), bool)
    # A padding row sees one column: with none its attention, and by some experts' routing the pass, would be NaN.
    whole[..., 0] = True
    for text, own in zip(whole, seen, strict=True):
        text[0, num_rows - len(own) :, : own.shape[1]] = own
    mask = torch.zeros(whole.shape, dtype=dtype)
    return mask.masked_fill_(torch.from_numpy(~whole), torch.finfo(dtype).min).to(device)
