"""Which number format training computes in. Weights, losses and stored states do not depend on it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch

PRECISIONS: Final = ("auto", "float32", "bfloat16")


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The format of matrix products: bfloat16 where the hardware multiplies it, unless `precision` names one."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    # Without instructions for it, bfloat16 is converted back and forth and slower than float32.
    fast = torch.cpu._is_avx512_bf16_supported() if device.type == "cpu" else True
    return torch.bfloat16 if fast else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Inside, matrix products run in `dtype`; what loses by it (norms, softmax) stays in float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
