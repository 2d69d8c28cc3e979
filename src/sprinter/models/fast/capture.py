"""Work of fixed shapes as one launch, and what goes to its device and comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import torch
from torch import Tensor

from sprinter.core.records import FloatArray

_WARM_UPS: Final = 3  # runs before capture, so that libraries have allocated what they need
T = TypeVar("T")


def capture(work: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """`work` as a CUDA graph, replayed by every call; off CUDA `work` itself.

    `work` must read its inputs from tensors that stay where they are, wait for nothing, and bear being run again on the
    same inputs: warming up and capturing run it several times. A replay overwrites what the one before returned.
    """
    if device.type != "cuda":
        return work
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # warming up beside the current stream is what graph capture asks for
            for _ in range(_WARM_UPS):
                work()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()

    def replay() -> T:
        graph.replay()
        return result

    return replay


def upload(values: Sequence[int] | Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`values` [len(values)] on `device`; the host does not wait for the copy."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    # From pageable memory the copy would wait for everything queued before it.
    return torch.tensor(values, dtype=dtype).pin_memory().to(device, non_blocking=True)


class Download:
    """Copies one tensor of fixed shape to the host, and waits for it: a chunk's only host synchronisation."""

    def __init__(self) -> None:
        self._pinned: Tensor | None = None

    def __call__(self, source: Tensor) -> FloatArray:
        """A float32 copy of its own of `source`, same shape."""
        if source.device.type != "cuda":
            return source.numpy().copy()
        if self._pinned is None:
            self._pinned = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        self._pinned.copy_(source, non_blocking=True)
        torch.cuda.current_stream(source.device).synchronize()
        return self._pinned.numpy().copy()
