"""The closed-form gradients are autograd's."""

from __future__ import annotations

import pytest
import torch

from sprinter.learn.losses import judge
from sprinter.learn.quantize import round_to_int4, rounded
from sprinter.learn.teacher import OutputLaw, draw


def laws(softcap: float | None, bias: bool) -> tuple[OutputLaw, torch.Tensor]:
    torch.manual_seed(3)
    full = OutputLaw(torch.randn(50, 8), torch.randn(50) if bias else None, 0.7, softcap)
    return full, torch.tensor([0, 3, 4, 11, 20, 21, 40])


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.6, 1.7)])
def test_value_and_gradient_equal_autograd(softcap: float | None, weights: tuple[float, float]) -> None:
    full, ids = laws(softcap, bias=True)
    law = full.rows(ids)
    teacher, hidden = torch.randn(600, 8), torch.randn(600, 8, requires_grad=True)  # more than one chunk
    norm = torch.logsumexp(full.logits(teacher), -1)  # [600]
    p = torch.softmax(full.logits(teacher), -1)[:, ids]  # [600, head]
    q = torch.softmax(law.logits(hidden), -1)
    kl = (p * (p.log() - q.log())).sum()
    overlap = torch.minimum(p, q).sum()
    (weights[0] * kl + weights[1] * (600 - overlap)).backward()
    found = judge(law, law, hidden.detach(), teacher, norm, weights)
    assert found.kl == pytest.approx(kl.item(), rel=1e-4)
    assert found.overlap == pytest.approx(overlap.item(), rel=1e-4)
    assert found.grad is not None
    assert hidden.grad is not None
    torch.testing.assert_close(found.grad, hidden.grad, rtol=1e-3, atol=1e-5)


def test_equal_laws_overlap_fully_on_the_whole_vocabulary() -> None:
    full, _ = laws(None, bias=False)
    hidden = torch.randn(5, 8)
    found = judge(full, full, hidden, hidden, torch.logsumexp(full.logits(hidden), -1), None)
    assert found.overlap == pytest.approx(5.0, abs=1e-4)
    assert found.kl == pytest.approx(0.0, abs=1e-4)
    assert found.agree == 5


def test_drawing_follows_the_law_and_zero_temperature_is_argmax() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3]])).expand(20_000, 3)
    generator = torch.Generator().manual_seed(0)
    drawn = draw(logits, torch.ones(20_000), generator)
    shares = torch.bincount(drawn, minlength=3) / 20_000
    # Standard error of a share is below 0.0036: 5 of them.
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.6, 0.3]), rtol=0, atol=0.018)
    assert (draw(logits[:9], torch.zeros(9), generator) == 1).all()


def test_int4_values_are_sixteen_per_group_and_close() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 64)
    small = round_to_int4(weight, 32)
    assert all(len(group.unique()) <= 16 for group in small.reshape(8, 32))
    span = weight.reshape(8, 32).amax(1) - weight.reshape(8, 32).amin(1)
    # Half a step, and a bfloat16 rounding of scale and middle.
    assert ((small - weight).reshape(8, 32).abs().amax(1) < span / 15 * 0.6 + 0.03).all()


def test_rounding_is_undone_afterwards() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 64))
    before = weight.detach().clone()
    with rounded({"w": weight}, 32):
        assert not torch.equal(weight, before)
    assert torch.equal(weight, before)
