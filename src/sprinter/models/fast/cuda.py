"""Narrow passes as CUDA graphs: a pass of many small kernels is then launched as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from sprinter.models.fast.capture import capture, upload
from sprinter.models.fast.config import Architecture
from sprinter.models.fast.torch_runner import TorchRunner

WIDTHS: Final = (1, 2, 4, 8, 16, 32)  # rows of the graphs; a pass takes the narrowest that holds it
Replay = Callable[[], tuple[Tensor, Tensor]]


class CudaRunner(TorchRunner):
    """A `TorchRunner` whose passes of up to 32 rows replay graphs of fixed shapes; wider passes run as they are.

    A graph reads its tokens and positions from one tensor and attends over the cache's whole capacity under a mask.
    Rows beyond the pass are filled up behind its end, where nothing sees them. All are captured again when the cache
    grows, as its tensors move then.
    """

    def __init__(self, arch: Architecture, tensors: Mapping[str, Tensor], embed: Tensor, device: str) -> None:
        super().__init__(arch, tensors, embed, device)
        self._inputs = {n: torch.zeros(2, n, dtype=torch.int64, device=self._device) for n in WIDTHS}
        self._graphs: dict[int, Replay] = {}
        self._captured_at = 0  # the capacity the graphs attend over

    def compute(self, ids: Sequence[int], start: int, num_last: int) -> tuple[Tensor, Tensor]:
        """See `TorchRunner.compute`; the results of a narrow pass hold until the next of its width."""
        width = next((n for n in WIDTHS if n >= len(ids)), None)
        if width is None or start + width > self._arch.context_length:
            return super().compute(ids, start, num_last)
        self.reserve(start + width)
        filled = [*ids, *[0] * (width - len(ids)), *range(start, start + width)]
        self._inputs[width].copy_(upload(filled, torch.int64, self._device).view(2, width), non_blocking=True)
        rows = slice(len(ids) - num_last, len(ids))
        logits, hidden = self._graph(width)()
        return logits[rows], hidden[rows]

    def advance(self, ids: Sequence[int], start: int) -> None:
        """See `TorchRunner.advance`."""
        with torch.inference_mode():
            self.compute(ids, start, 1)

    def _graph(self, width: int) -> Replay:
        if self._captured_at != self.capacity:
            self._graphs, self._captured_at = {}, self.capacity
        if width not in self._graphs:
            tokens, positions = self._inputs[width]
            self._graphs[width] = capture(lambda: self.step_at(tokens, positions), self._device)
        return self._graphs[width]
