"""A CUDA graph's way of running, on the CPU: operations recorded once, then repeated on the very same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What makes the host wait for a device, or gives a result whose shape depends on numbers: no graph can hold it.
_FORBIDDEN = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal")


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        assert name not in _FORBIDDEN, f"{func} cannot stand in a graph"
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out


def recorded(work: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """Takes the place of `capture`: Python runs once, and every call repeats the operations on the same memory."""
    recorder = _Recorder()
    with recorder:
        result = work()

    def replay() -> Any:
        for func, args, kwargs, out in recorder.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
        return result

    return replay
