"""How far the student's law is from the target's: value and gradient in closed form, in chunks.

With p the target's law, q the student's softmax over the head tokens S, P = p(S), and z the student's logits:

    KL  = sum_{x in S} p(x) log(p(x) / q(x))        dKL/dz(x) = P q(x) - p(x)
    TV' = 1 - sum_{x in S} min(p(x), q(x))          dTV'/dz(x) = -q(x) (m(x) - sum_y q(y) m(y)),  m = 1[q < p]

1 - TV' is the acceptance probability of speculative decoding (Leviathan et al. 2211.17192, Corollary 3.6). Autograd
would keep ten arrays of the vocabulary's size per position; the closed form keeps the gradient of the hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sprinter.learn.teacher import OutputLaw

CHUNK = 512  # positions at a time: 512 x 12,000 float32 stays below malloc's 32 MB mmap limit


@dataclass(frozen=True)
class Judgement:
    """Sums over positions, and the gradient of the loss sum."""

    kl: float
    overlap: float  # sum of min(p, q)
    agree: int  # positions where both laws have the same largest token
    grad: Tensor | None  # [positions, hidden]


@torch.no_grad()
def judge(
    student_law: OutputLaw,
    teacher_law: OutputLaw,
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    log_norm: Tensor,
    weights: tuple[float, float] | None,
    back: OutputLaw | None = None,
) -> Judgement:
    """Compare both laws at positions [n, hidden] each; `log_norm` [n] is the target's over its whole vocabulary.

    Both laws have the rows of the head tokens only. `weights` = (of KL, of TV) also asks for the gradient of
    w_kl * KL + w_tv * TV', summed over positions; None asks for the numbers alone. `back` is the student's layer
    in the format in which the gradient is brought back to the hidden states; the laws are computed in the laws' own.
    """
    kl = overlap = agree = torch.zeros((), dtype=torch.float64, device=student_hidden.device)
    grads = []
    for start in range(0, len(student_hidden), CHUNK):
        part = slice(start, start + CHUNK)
        logits = student_law.logits(student_hidden[part]).float()  # [n, head]
        log_q = torch.log_softmax(logits, dim=-1)  # [n, head]
        log_p = teacher_law.logits(teacher_hidden[part].float()).float()  # [n, head]
        log_p -= log_norm[part, None]
        agree = agree + (log_q.argmax(-1) == log_p.argmax(-1)).sum()
        p, q = log_p.exp(), log_q.exp()  # [n, head]
        overlap = overlap + torch.minimum(p, q).sum()
        kl = kl + log_p.sub_(log_q).mul_(p).sum()
        if weights is not None:
            grads.append((back or student_law).pull_back(_gradient(p, q, weights), logits).float())
    grad = torch.cat(grads) if grads else None
    return Judgement(float(kl), float(overlap), int(agree), grad)


def _gradient(p: Tensor, q: Tensor, weights: tuple[float, float]) -> Tensor:
    """d(w_kl KL + w_tv TV')/dz, [n, head]; overwrites p."""
    w_kl, w_tv = weights
    factor = w_kl * p.sum(-1, keepdim=True)  # [n, 1]
    if w_tv:
        below = (q < p).float()  # [n, head]
        inner = (q * below).sum(-1, keepdim=True)  # [n, 1]
        out = below.neg_().add_(inner).mul_(w_tv).add_(factor).mul_(q)  # [n, head]
    else:
        out = q * factor
    return out.sub_(p, alpha=w_kl)


def feature_loss(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """Mean squared difference of final hidden states over the teacher's mean square: 0 perfect, 1 like all zeros."""
    wanted = teacher_hidden.float()
    return (student_hidden - wanted).pow(2).mean() / wanted.pow(2).mean().clamp_min(1e-12)
