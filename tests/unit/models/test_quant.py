"""Quantisation: codes, scales and the products with them."""

from __future__ import annotations

import pytest
import torch

from sprinter.errors import BackendError
from sprinter.models.fast.quant import (
    GROUP,
    WIDE_FROM,
    Int4Linear,
    Int8Linear,
    dequantise_int4,
    pack_int4,
    quantise_int4,
    quantise_int8,
)


def random_weight(rows: int = 32, columns: int = 128) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def q4_1_weight() -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and values of a matrix as a Q4_1 file stores it: float16 scale and minimum, every group from 0 to 15."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 16, (32, 4, GROUP), generator=generator)
    codes[..., 0], codes[..., 1] = 0, 15
    scale = (torch.rand(32, 4, 1, generator=generator) + 0.1).half().float()
    minimum = torch.randn(32, 4, 1, generator=generator).half().float()
    return codes.view(32, -1), (codes * scale + minimum).view(32, -1)


def test_weights_on_a_q4_1_grid_keep_their_codes() -> None:
    codes, weight = q4_1_weight()
    found, scale, zero = quantise_int4(weight)
    assert torch.equal(found.long(), codes)
    # What is left is the rounding of scale and zero to bfloat16, at most 2^-9 of each.
    bound = scale.abs()[..., None] * 8 * 2**-8 + zero.abs()[..., None] * 2**-8
    assert ((dequantise_int4(found, scale, zero) - weight).abs().view(32, -1, GROUP) <= bound).all()


def test_exact_scales_reproduce_a_q4_1_grid() -> None:
    _, weight = q4_1_weight()
    assert torch.allclose(dequantise_int4(*quantise_int4(weight, exact_scales=True)), weight, atol=1e-5)


def test_the_search_is_never_worse_than_the_full_range() -> None:
    weight = random_weight()
    groups = weight.view(32, -1, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / 15
    plain = ((groups - low) / step).round() * step + low
    searched = dequantise_int4(*quantise_int4(weight, exact_scales=True)).view_as(groups)
    assert (searched - groups).square().sum() < (plain - groups).square().sum()


def test_a_constant_group_survives() -> None:
    codes, scale, zero = quantise_int4(torch.full((16, GROUP), 0.5))
    assert torch.allclose(dequantise_int4(codes, scale, zero), torch.full((16, GROUP), 0.5))


def test_rows_that_are_no_multiple_of_the_group_are_refused() -> None:
    with pytest.raises(BackendError, match="multiple of 32"):
        quantise_int4(random_weight(16, 48))


def test_narrow_and_wide_int4_paths_are_the_same_matrix() -> None:
    codes, scale, zero = quantise_int4(random_weight())
    bias = torch.randn(32)
    linear = Int4Linear(*pack_int4(codes, scale, zero), dequantise_int4(codes, scale, zero), bias)
    x = torch.randn(WIDE_FROM, 128).bfloat16().float()
    wide = linear(x)
    narrow = torch.cat([linear(row[None]) for row in x])
    assert torch.allclose(wide, x @ linear.wide.t() + bias, atol=1e-4)
    assert (narrow - wide).abs().max() < 2**-7 * wide.abs().max()  # the kernel's output is bfloat16


def test_int8_rows_err_by_half_a_step_at_most() -> None:
    weight = random_weight()
    codes, scale = quantise_int8(weight)
    steps = scale.float()[:, None]
    assert ((codes.float() * steps - weight).abs() <= 0.5 * steps + weight.abs() * 2**-8).all()
    x = torch.randn(3, 128)
    product = Int8Linear(codes, scale, None)(x)
    assert (product - x @ weight.t()).abs().max() < 0.02 * (x @ weight.t()).abs().max()
