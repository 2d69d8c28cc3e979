"""Rounding to 4 bits in training, so that a draft survives the int4 backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

LEVELS = 15  # 4 bits


def round_to_int4(weight: Tensor, group: int) -> Tensor:
    """The values of `weight` [out, in] after asymmetric 4-bit rounding in groups of `group` along the input.

    scale = (max - min) / 15 and the group's middle are kept in bfloat16, as torch's int4 kernels keep them.
    A matrix whose input is no multiple of `group` is returned unchanged.
    """
    rows, columns = weight.shape
    if columns % group:
        return weight
    blocks = weight.float().reshape(rows, columns // group, group)  # [out, groups, group]
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)  # [out, groups, 1]
    scale = ((high - low) / LEVELS).clamp_min(1e-9)
    middle = (low + 8 * scale).bfloat16().float()
    scale = scale.bfloat16().float()
    steps = ((blocks - middle) / scale).round_().clamp_(-8, 7)  # [out, groups, group]
    return (steps * scale + middle).reshape(rows, columns).to(weight.dtype)


@contextmanager
def rounded(parameters: Mapping[str, Tensor], group: int) -> Iterator[None]:
    """Inside, every matrix holds its 4-bit value; outside, the exact one: gradients pass straight through.

    `group` 0 changes nothing.
    """
    exact = {name: p.data for name, p in parameters.items() if group and p.dim() == 2}
    try:
        with torch.no_grad():
            for name, value in exact.items():
                parameters[name].data = round_to_int4(value, group)
        yield
    finally:
        for name, value in exact.items():
            parameters[name].data = value
