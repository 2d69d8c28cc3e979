"""What all backends share: checks of a pass, facts of its rows, and the book of which rows stand in line."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from sprinter.core.rows import Facts, FloatArray, ModelInfo, Part
from sprinter.errors import BackendError, ConfigError
from sprinter.native import rows


def is_finite(logits: FloatArray) -> bool:
    """Whether every row of `logits` [rows, width] has a largest entry and it is finite: no NaN, no +inf."""
    # max() hands NaN on and -inf (a banned token) does not disturb it, so one pass is enough.
    return bool(np.isfinite(logits.max(axis=-1)).all())


def not_finite(name: str) -> BackendError:
    """What to raise when model `name` computed logits that are not finite."""
    return BackendError(
        f"{name} computed NaN or infinite logits: its weights are damaged or its number format overflows "
        "(try --weights float32)"
    )


def check_finite(name: str, logits: FloatArray) -> FloatArray:
    """Return `logits`, or raise BackendError naming the model if a row holds NaN or +inf."""
    if not is_finite(logits):
        raise not_finite(name)
    return logits


class Line:
    """Which rows of a text stand in line and which lie loose behind it: what a cache knows besides its numbers.

    Each loose row has a parent among the loose rows before it (-1: the end of the line) and a position in its text.
    """

    def __init__(self, length: int = 0) -> None:
        self.length = length
        self.parents: list[int] = []  # of the loose rows
        self.positions: list[int] = []  # of the loose rows

    def positions_of(self, part: Part) -> list[int]:
        """Positions of the rows of `part`. Raises ConfigError for parents that are no earlier rows."""
        if part.parents is None:
            if self.parents:
                raise ConfigError("a part without parents lengthens the line: keep or truncate the loose rows first")
            return list(range(self.length, self.length + len(part.tokens)))
        positions = list(self.positions)
        for parent in part.parents:
            if not -1 <= parent < len(positions):
                raise ConfigError(
                    f"loose row {len(positions)} names row {parent} as its parent, which is no earlier one"
                )
            positions.append(self.length if parent < 0 else positions[parent] + 1)
        return positions[len(self.positions) :]

    def add(self, part: Part, positions: Sequence[int]) -> None:
        """Note the rows of `part`, whose positions are `positions_of(part)`."""
        if part.parents is None:
            self.length += len(part.tokens)
        else:
            self.parents.extend(part.parents)
            self.positions.extend(positions)

    def check_path(self, path: Sequence[int]) -> None:
        """Raise ConfigError unless `path` is a chain of loose rows from the end of the line on."""
        if [self.parents[row] for row in path if 0 <= row < len(self.parents)] != [-1, *path][: len(path)]:
            raise ConfigError(f"rows {list(path)} are no path of loose rows from the end of the line on")

    def settle(self, num_kept: int) -> None:
        """Count `num_kept` loose rows into the line and forget the others."""
        self.length += num_kept
        self.parents.clear()
        self.positions.clear()

    def cut(self, length: int) -> None:
        """Forget the loose rows and the line behind `length`. Raises ConfigError for a line that is shorter."""
        if not 0 <= length <= self.length:
            raise ConfigError(f"cannot cut a line of {self.length} rows to {length}")
        self.length = length
        self.settle(0)

    def check_fork(self) -> None:
        """Raise ConfigError where rows lie loose."""
        if self.parents:
            raise ConfigError(f"cannot fork a cache with {len(self.parents)} loose rows: keep or truncate them first")


def ancestors(parents: Sequence[int], row: int) -> list[int]:
    """Loose row `row` and the loose rows above it, from the first behind the line to itself.

    >>> ancestors([-1, 0, 0, 2], 3)
    [0, 2, 3]
    """
    path = []
    while row >= 0:
        path.append(row)
        row = parents[row]
    return path[::-1]


def check_part(info: ModelInfo, part: Part, positions: Sequence[int]) -> None:
    """Raise ConfigError or BackendError for a part that `info`'s model cannot serve; `positions` are its rows'."""
    if not part.tokens or len(part.tokens) != len(positions) or not 0 <= part.wanted <= len(part.tokens):
        raise ConfigError(
            f"asked {info.name} for {part.wanted} views of {len(part.tokens)} tokens at {len(positions)} places"
        )
    if max(positions) >= info.context_length:
        raise ConfigError(
            f"the sequence has {max(positions) + 1} tokens, but {info.name} reads at most {info.context_length}: "
            "shorten the prompt or lower --max-new-tokens"
        )
    if min(part.tokens) < 0 or max(part.tokens) >= info.vocab_size:
        unknown = next(t for t in part.tokens if not 0 <= t < info.vocab_size)
        raise BackendError(f"{info.name} knows the token ids 0 to {info.vocab_size - 1}, but was given {unknown}")


def facts_of(logits: FloatArray) -> Facts:
    """Facts of rows of finite logits [rows, width], in which -inf stands for a banned token."""
    if (found := rows.facts(logits)) is not None:
        return Facts(found)
    table = np.full((len(logits), 4), -np.inf)
    if len(logits):
        every = np.arange(len(logits))
        best = logits.argmax(axis=-1)  # [rows]
        top = logits[every, best]
        # Banned tokens too get a finite number, as 0 times an infinite one is NaN; its exponential is 0 all the same.
        below = np.maximum(logits - top[:, None], -1e4)  # [rows, width]
        weights = np.exp(below)
        total = weights.sum(axis=-1)
        table[:, 0] = best
        table[:, 1] = top + np.log(total)
        table[:, 2] = np.log(total) - np.vecdot(weights, below) / total
        if logits.shape[1] > 1:
            below[every, best] = -np.inf
            table[:, 3] = logits[every, below.argmax(axis=-1)]
    return Facts(table)


def check_blocks(info: ModelInfo, left_out: Collection[int]) -> None:
    """Raise ConfigError for blocks that `Model.without` cannot leave out."""
    last = 2 * info.num_layers - 3
    if strange := [block for block in left_out if not 2 <= block <= last]:
        raise ConfigError(
            f"cannot leave block {strange[0]} out of {info.name}: blocks 2 to {last} can be, those between its first "
            "and its last layer"
        )


def thinner(info: ModelInfo, left_out: Collection[int], saved: int) -> ModelInfo:
    """`info` of the model without the blocks `left_out`, which hold `saved` parameters."""
    names = ",".join(map(str, sorted(left_out)))
    return replace(
        info,
        name=f"{info.name} without {names or 'nothing'}",
        num_parameters=info.num_parameters - saved,
        bytes_per_step=info.bytes_per_step - round(info.bytes_per_step * saved / info.num_parameters),
        fingerprint=hashlib.sha256(f"{info.fingerprint} without {names}".encode()).hexdigest(),
    )


def check_distinct(parts: Sequence[Part]) -> None:
    """Raise ConfigError where two parts of a pass share a cache."""
    if len({id(part.cache) for part in parts}) < len(parts):
        raise ConfigError("two parts of one pass have the same cache: give each text a cache of its own")
