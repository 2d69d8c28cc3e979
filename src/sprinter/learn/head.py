"""Which tokens a draft's head covers: those the target itself gives the most probability."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sprinter.errors import ConfigError
from sprinter.learn.corpus import load_trace, traces
from sprinter.learn.teacher import OutputLaw

CHUNK = 256


@torch.no_grad()
def target_mass(law: OutputLaw, folder: Path, max_positions: int, chunk: int = CHUNK) -> Tensor:
    """Mean probability [vocab] float64 the target gives each token, over judged positions spread over the traces."""
    files = list(traces(folder))
    mass = torch.zeros(law.weight.shape[0], dtype=torch.float64, device=law.weight.device)
    seen, share = 0, max(1, max_positions // max(1, len(files)))
    for file in files:
        trace = load_trace(file)
        places = torch.arange(trace.tokens.shape[1])[None]  # [1, seq]
        judged = (places >= trace.first[:, None]) & (places < trace.stop[:, None])  # [rows, seq]
        hidden, norm = trace.hidden[judged], trace.log_norm[judged]  # [n, hidden], [n]
        stride = max(1, len(hidden) // share)
        hidden, norm = hidden[::stride].to(mass.device), norm[::stride].to(mass.device)
        for start in range(0, len(hidden), chunk):
            logits = law.logits(hidden[start : start + chunk].to(law.weight.dtype)).float()  # [n, vocab]
            mass += (logits - norm[start : start + chunk, None]).exp_().sum(0, dtype=torch.float64)
        seen += len(hidden)
    return mass / max(1, seen)


def head_ids(mass: Tensor, count: int, always: Iterable[int]) -> Tensor:
    """The `count` tokens of most mass together with `always` (ends of text), ascending, [count] int64."""
    forced = sorted(set(always))
    if not len(forced) < count <= len(mass):
        raise ConfigError(f"a head of {count} tokens is impossible: the vocabulary has {len(mass)}")
    ranked = mass.clone()
    ranked[forced] = float("inf")
    return ranked.topk(count).indices.sort().values.cpu()


def coverage(mass: Tensor, counts: Sequence[int]) -> dict[int, float]:
    """Share of the target's probability covered by its `n` best tokens, for each n."""
    cumulative = (mass / mass.sum()).sort(descending=True).values.cumsum(0)
    return {n: float(cumulative[min(n, len(mass)) - 1]) for n in counts}
