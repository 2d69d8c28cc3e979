"""One-token steps as CUDA graphs: a step of many small kernels is then launched as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sprinter.decoding.backends.fast_config import Architecture
from sprinter.decoding.backends.fast_runner import TorchRunner

_WARM_UPS = 3  # passes before capture, so that libraries have allocated what they need


class CudaRunner(TorchRunner):
    """A `TorchRunner` whose one-token steps replay a graph of fixed shapes; wider passes run as they are.

    The graph reads its token and position from two tensors and attends over the cache's whole capacity under a mask.
    It is captured again when the cache grows, as its tensors move then.
    """

    def __init__(self, arch: Architecture, tensors: Mapping[str, Tensor], embed: Tensor, device: str) -> None:
        super().__init__(arch, tensors, embed, device)
        self._token = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._position = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._captured: tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]] | None = None

    def compute(self, ids: Sequence[int], start: int, num_last: int) -> tuple[Tensor, Tensor]:
        """See `TorchRunner.compute`; the results of a one-token step hold until the next."""
        if self._cache.reserve(start + len(ids)):
            self._captured = None
        if len(ids) != 1:
            return super().compute(ids, start, num_last)
        self._token.fill_(ids[0])
        self._position.fill_(start)
        if self._captured is None:
            self._captured = self._capture()
        graph, result = self._captured
        graph.replay()
        return result

    def step(self) -> tuple[Tensor, Tensor]:
        """(logits [1, width], hidden [1, hidden]) of the token and position in the two tensors; static shapes only."""
        capacity = self._cache.kv.shape[3]
        seen = torch.arange(capacity, device=self._device) <= self._position  # [capacity]
        mask = torch.zeros(1, capacity, device=self._device, dtype=self._cache.kv.dtype)
        mask = mask.masked_fill(~seen, -torch.inf)  # [1, capacity]
        x = self._embed[self._token].float()  # [1, hidden], a copy
        rotary = self._cache.rotary[self._position]  # [1, 1, head_dim / 2]
        return self._finish(self._layers_on(x, rotary, self._cache.kv, self._position, mask))

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        # Warming up on a side stream is what graph capture asks for. It writes the keys and values of this very
        # position, which the replay then writes again, so nothing is spoilt.
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self.step()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self.step()
        return graph, result
