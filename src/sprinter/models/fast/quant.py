"""Weight formats of the fast backend: float32 matrices -> int4 or int8, and the products with them."""

from __future__ import annotations

from typing import Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sprinter.errors import BackendError

GROUP: Final = 32  # weights that share one int4 scale and zero
BLOCK: Final = 16  # output rows the compiled pass computes side by side
# From this many rows on, a float32 product with the same weights beats unpacking int4 once per row. A constant rather
# than a measurement at load: the choice changes the last bits of the logits, and a seed must give one text.
WIDE_FROM: Final = 10
_SHRINKS: Final = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8)
_ROWS_AT_ONCE: Final = 64
_TINY: Final = 1e-8
_SLACK: Final = 256  # bytes


class Linear(Protocol):
    """y = x W^T + b for x [rows, in] float32, y [rows, out] float32."""

    def __call__(self, x: Tensor) -> Tensor: ...


class DenseLinear:
    """float32 or bfloat16 weights."""

    __slots__ = ("bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight  # [out, in]
        self.bias = None if bias is None else bias.to(weight.dtype)  # [out]

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).float()


class Int4Linear:
    """Packed 4-bit weights for few rows, a float32 copy of the very same weights for many."""

    __slots__ = ("bias", "packed", "scales", "wide")

    def __init__(self, packed: Tensor, scales: Tensor, wide: Tensor, bias: Tensor | None = None) -> None:
        self.packed = packed  # torch's int4 CPU layout of this machine
        self.scales = scales  # bfloat16 [in / GROUP, out, 2]: scale, zero
        self.wide = wide  # float32 [out, in]
        self.bias = bias  # float32 [out]

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] >= WIDE_FROM:
            return F.linear(x, self.wide, self.bias)
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), self.packed, GROUP, self.scales).float()
        return y if self.bias is None else y.add_(self.bias)


class Int8Linear:
    """8-bit weights with one scale per row; many rows go through a float32 copy where one is kept."""

    __slots__ = ("bias", "scales", "weight", "wide")

    def __init__(self, weight: Tensor, scales: Tensor, wide: Tensor | None, bias: Tensor | None = None) -> None:
        # torch's kernel for AVX512 reads a little past the last row. Of a mapped file there may be nothing behind it.
        room = weight.new_zeros(weight.numel() + _SLACK)
        self.weight = room[: weight.numel()].view_as(weight).copy_(weight)  # int8 [out, in]
        self.scales = scales  # bfloat16 [out]
        self.wide = wide  # float32 [out, in]
        self.bias = bias  # float32 [out]

    def __call__(self, x: Tensor) -> Tensor:
        if self.wide is not None and x.shape[0] >= WIDE_FROM:
            return F.linear(x, self.wide, self.bias)
        y: Tensor = torch.ops.aten._weight_int8pack_mm(x.bfloat16(), self.weight, self.scales).float()
        return y if self.bias is None else y.add_(self.bias)


def quantise_int4(weight: Tensor, exact_scales: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [out, in] uint8 in 0..15, scale and zero [out, in / GROUP] with weight ~ (code - 8) * scale + zero.

    Scale and zero are values bfloat16 can hold (float32 if `exact_scales`). Each group tries several ranges and keeps
    the one of least squared error. A group that already lies on 16 even steps (Q4_1 dequantised) keeps its codes.
    Raises BackendError when the row length is no multiple of GROUP.
    """
    if weight.shape[1] % GROUP:
        raise BackendError(f"int4 rows must be a multiple of {GROUP} long, not {weight.shape[1]}: try --weights int8")
    # In slices that fit into the processor's cache: a third of the time of whole matrices.
    slices = [_quantise_rows(rows, exact_scales) for rows in torch.split(weight.float(), _ROWS_AT_ONCE)]
    codes, scales, zeros = zip(*slices, strict=True)
    return torch.cat(codes), torch.cat(scales), torch.cat(zeros)


def _quantise_rows(weight: Tensor, exact_scales: bool) -> tuple[Tensor, Tensor, Tensor]:
    w = weight.view(weight.shape[0], -1, GROUP)  # [out, group, 32]
    low, high = w.amin(-1), w.amax(-1)  # [out, group]
    best_error = torch.full_like(low, torch.inf)
    best_scale, best_zero, best_codes = low, low, w
    for shrink in _SHRINKS:
        scale = _held((high - low) * (shrink / 15), exact_scales).clamp_min(_TINY)
        zero = _held((low + high + scale) / 2, exact_scales)  # code 8 lies half a step above the middle
        codes = _codes(w, scale, zero)
        # Given the codes, the mean residual is the best zero.
        zero = _held((w - codes.sub(8).mul_(scale[..., None])).mean(-1), exact_scales)
        error = (codes.sub(8).mul_(scale[..., None]).add_(zero[..., None]).sub_(w)).square_().sum(-1)  # [out, group]
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale, best_zero = torch.where(better, scale, best_scale), torch.where(better, zero, best_zero)
        best_codes = torch.where(better[..., None], codes, best_codes)
        # Rounding to 16 free values leaves an error near scale^2 * 32 / 12; a hundredth of it means the weights lie
        # on the grid already, and no other range can do better.
        if shrink == 1.0 and bool((error <= 0.03 * scale.square()).all()):
            break
    return best_codes.to(torch.uint8).view(weight.shape), best_scale, best_zero


def _held(x: Tensor, exact: bool) -> Tensor:
    """`x` as it will be stored: float32, or rounded to bfloat16."""
    return x if exact else x.bfloat16().float()


def _codes(w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Nearest codes, float [out, group, 32]."""
    return ((w - zero[..., None]) / scale[..., None]).round_().add_(8).clamp_(0, 15)


def dequantise_int4(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """float32 [out, in] from `quantise_int4`'s result."""
    grouped = codes.view(codes.shape[0], -1, GROUP).float()  # [out, group, 32]
    return grouped.sub_(8).mul_(scale[..., None]).add_(zero[..., None]).view(codes.shape)


def pack_int4(codes: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """Torch's int4 CPU operands: packed uint8, and bfloat16 [in / GROUP, out, 2]."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    return packed, torch.stack([scale.t(), zero.t()], dim=-1).bfloat16().contiguous()


def quantise_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [out, in] and bfloat16 scales [out] with weight ~ code * scale."""
    scale = (weight.float().abs().amax(1) / 127).clamp_min(1e-12).bfloat16()  # [out]
    # Codes are taken against the rounded scale, so rounding it to bfloat16 costs nothing but a step of range.
    codes = (weight.float() / scale.float()[:, None]).round_().clamp_(-127, 127)
    return codes.to(torch.int8), scale


def quantise_int8_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [out, in] and float16 scales [out, in / GROUP]; weights on a Q8_0 grid keep their codes."""
    groups = weight.float().view(weight.shape[0], -1, GROUP)  # [out, group, 32]
    scale = (groups.abs().amax(-1) / 127).half()  # [out, group]
    codes = (groups / scale.float().clamp_min(_TINY)[..., None]).round_().clamp_(-127, 127)
    return codes.to(torch.int8).view(weight.shape), scale


def pack_blocks(codes: Tensor, bits: int) -> Tensor:
    """Codes [out, in] in the order native_avx2.h says: uint8 [block, group, line, 64], rows padded to whole blocks."""
    codes = _padded(codes.view(torch.uint8))
    quads = codes.view(-1, BLOCK, codes.shape[1] // GROUP, 8, 4)  # [block, row, group, quad, 4]
    lines = quads.permute(0, 2, 3, 1, 4)
    if bits == 4:
        lines = lines[:, :, :4] | (lines[:, :, 4:] << 4)
    return lines.reshape(*lines.shape[:3], 4 * BLOCK).contiguous()


def pack_group_values(values: Tensor) -> Tensor:
    """Scales or minimums [out, group] as float16 [block, group, row], rows padded to whole blocks."""
    values = _padded(values.half())
    return values.view(-1, BLOCK, values.shape[1]).transpose(1, 2).contiguous()


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, -x.shape[0] % BLOCK))
