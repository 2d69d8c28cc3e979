"""Training a student on stored traces: resumable, and in an order that depends on the seed and the step alone."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sprinter.errors import BackendError, ConfigError, DataError
from sprinter.learn.corpus import load_trace, traces
from sprinter.learn.losses import feature_loss, judge
from sprinter.learn.precision import PRECISIONS, autocast, compute_dtype
from sprinter.learn.quantize import rounded
from sprinter.learn.student import own_names
from sprinter.learn.teacher import OutputLaw, Trace, final_hidden


@dataclass(frozen=True)
class TrainConfig:
    """How a student is trained. Loss per judged position = kl_weight KL + tv_weight TV + feature_weight * feature."""

    steps: int = 2000
    batch_rows: int = 16
    micro_rows: int = 4  # rows of one trace file that run together; batch_rows is a multiple
    workers: int = 1  # threads that each run a micro-batch
    lr: float = 1e-3
    warmup_steps: int = 50
    cooldown_share: float = 0.4  # of the steps: the learning rate falls linearly to zero there
    weight_decay: float = 0.01
    kl_weight: float = 1.0
    tv_weight: float = 1.0
    feature_weight: float = 0.3
    int4_group: int = 0  # > 0: train through 4-bit rounding in groups of this size
    int4_from: float = 0.0  # share of the steps after which rounding starts
    save_every: int = 100
    precision: str = "auto"  # of matrix products: float32, bfloat16, or bfloat16 where the hardware is fast at it
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.micro_rows, self.workers) < 1 or self.batch_rows % self.micro_rows:
            raise ConfigError(
                "steps, micro_rows and workers must be at least 1, and batch_rows a multiple of micro_rows"
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if not 0 < self.lr < 1 or not 0 <= self.cooldown_share <= 1 or not 0 <= self.int4_from <= 1:
            raise ConfigError("lr must be between 0 and 1, cooldown_share and int4_from within 0..1")
        weights = (self.kl_weight, self.tv_weight, self.feature_weight)
        if min(weights) < 0 or self.kl_weight + self.tv_weight == 0:
            raise ConfigError("loss weights must not be negative, and KL and TV not both zero")

    def rate(self, step: int) -> float:
        """Learning rate at a step: warm-up, constant, linear fall to zero."""
        left = (self.steps - step) / max(1.0, self.steps * self.cooldown_share)
        return self.lr * min(1.0, (step + 1) / max(1, self.warmup_steps), max(0.0, left))


@dataclass(frozen=True)
class Progress:
    """One step's numbers: means per judged position (feature loss: per position)."""

    step: int
    steps: int
    loss: float
    kl: float
    overlap: float
    agreement: float
    feature: float
    tokens: int


@dataclass(frozen=True)
class Score:
    """Held-out means per judged position."""

    kl: float
    overlap: float
    agreement: float
    positions: int


@dataclass(frozen=True)
class _Part:
    """What one micro-batch adds to a step."""

    grads: tuple[Tensor, ...]
    kl: float
    overlap: float
    agreement: float
    feature: float


class Trainer:
    """A student with its optimizer; `head` holds the output layer's rows on the head tokens."""

    def __init__(self, student: nn.Module, head: OutputLaw, config: TrainConfig) -> None:
        self.student, self.head, self.config, self.step = student, head, config, 0
        self._dtype = compute_dtype(config.precision, head.weight.device)
        self._back = head.to(self._dtype)
        own = set(own_names(student))
        self.own = {name: p for name, p in student.named_parameters() if name in own}
        matrices = [p for p in self.own.values() if p.dim() >= 2]
        vectors = [p for p in self.own.values() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        # On a busy machine two workers of one thread each beat one operation split over two threads: a split waits
        # for its slower half.
        self._pool = ThreadPoolExecutor(config.workers, initializer=_one_thread if config.workers > 1 else None)
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)

    def run(self, folder: Path, state_file: Path | None = None) -> Iterator[Progress]:
        """Train on the trace files of `folder` up to `config.steps`, saving to `state_file`; yields every step."""
        config = self.config
        for batch in self._batches(folder):
            yield self._one_step(batch)
            if state_file and (self.step % config.save_every == 0 or self.step == config.steps):
                self.save(state_file)
            if self.step >= config.steps:
                return

    def _batches(self, folder: Path) -> Iterator[list[Trace]]:
        """Batches of micro-batches from now on; every epoch has its own order, so a resumed run repeats nothing."""
        config = self.config
        per_batch = config.batch_rows // config.micro_rows
        done = 0
        epoch = 0
        while self.step < config.steps:
            files = [load_trace(file) for file in traces(folder)]
            places = [(t, s) for t in files for s in range(0, len(t.tokens), config.micro_rows)]
            if len(places) < per_batch:
                raise DataError(
                    f"{folder} holds {len(places)} micro-batches, a step needs {per_batch}: give more texts"
                )
            random.Random(config.seed * 7919 + epoch).shuffle(places)
            for i in range(0, len(places) - per_batch + 1, per_batch):
                if done >= self.step:
                    yield [_rows(t, s, config.micro_rows) for t, s in places[i : i + per_batch]]
                    if self.step >= config.steps:
                        return
                done += 1
            epoch += 1

    def _one_step(self, batch: list[Trace]) -> Progress:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(self.step)
        total = max(1, sum(int((t.stop - t.first).clamp_min(0).sum()) for t in batch))
        group_size = config.int4_group if self.step >= config.int4_from * config.steps else 0
        with rounded(self.own, group_size):
            # map keeps the order, so the sum of gradients does not depend on which worker was faster.
            parts = list(self._pool.map(lambda trace: self._part(trace, total, len(batch)), batch))
        for index, parameter in enumerate(self.own.values()):
            parameter.grad = parts[0].grads[index]
            for part in parts[1:]:
                parameter.grad += part.grads[index]
        nn.utils.clip_grad_norm_(self.own.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        kl, overlap, feature = (sum(getattr(p, key) for p in parts) for key in ("kl", "overlap", "feature"))
        loss = config.kl_weight * kl + config.tv_weight * (1 - overlap) + config.feature_weight * feature
        if math.isnan(loss):
            raise BackendError(f"the loss became NaN at step {self.step}: start again with a smaller learning rate")
        return Progress(self.step, config.steps, loss, kl, overlap, sum(p.agreement for p in parts), feature, total)

    def _hidden(self, trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        """(student states [rows, seq, hidden], teacher states alike, judged positions [rows, seq] bool)."""
        device = self.head.weight.device
        with autocast(self._dtype, device):
            out = final_hidden(self.student, input_ids=trace.tokens.long().to(device), use_cache=False)
        states = out.last_hidden_state.float()
        places = torch.arange(trace.tokens.shape[1])[None]  # [1, seq]
        judged = (places >= trace.first[:, None]) & (places < trace.stop[:, None])  # [rows, seq]
        return states, trace.hidden.to(device), judged.to(device)

    def _part(self, trace: Trace, total: int, parts: int) -> _Part:
        """Gradients and numbers of one micro-batch, scaled so that the batch is the plain sum of its parts."""
        states, wanted, judged = self._hidden(trace)
        chosen = states[judged]  # [n, hidden]
        norms = trace.log_norm.to(judged.device)[judged]  # [n]
        weights = (self.config.kl_weight, self.config.tv_weight)
        found = judge(self.head, self.head, chosen, wanted[judged], norms, weights, self._back)
        assert found.grad is not None
        feature = feature_loss(states, wanted) / parts
        # The gradient with respect to the hidden states is known; this sum has exactly that gradient.
        surrogate = (chosen * found.grad).sum() / total + self.config.feature_weight * feature
        grads = torch.autograd.grad(surrogate, list(self.own.values()))
        return _Part(grads, found.kl / total, found.overlap / total, found.agree / total, float(feature.detach()))

    @torch.no_grad()
    def score(self, folder: Path, int4_group: int = 0) -> Score:
        """Means over all judged positions of held-out traces; DataError if there are none."""
        kl = overlap = 0.0
        agree = positions = 0
        with rounded(self.own, int4_group):
            for file in traces(folder):
                whole = load_trace(file)
                for start in range(0, len(whole.tokens), 16):
                    trace = _rows(whole, start, 16)
                    states, wanted, judged = self._hidden(trace)
                    norms = trace.log_norm.to(judged.device)[judged]
                    found = judge(self.head, self.head, states[judged], wanted[judged], norms, None)
                    kl, overlap, agree = kl + found.kl, overlap + found.overlap, agree + found.agree
                    positions += int(judged.sum())
        if not positions:
            raise DataError(f"{folder} holds no traces to score: run `sprinter distill` on more texts")
        return Score(kl / positions, overlap / positions, agree / positions, positions)

    def save(self, file: Path) -> None:
        """Write parameters, optimizer state and step beside `file`, then rename."""
        tensors = {f"own.{name}": p.detach() for name, p in self.own.items()}
        for name, p in self.own.items():
            for key, value in self.optimizer.state[p].items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value).detach()
        beside = file.with_suffix(".part")
        try:
            whole = {name: t.cpu().contiguous() for name, t in tensors.items()}
            save_file(whole, str(beside), metadata={"step": json.dumps(self.step)})
            beside.replace(file)
        except (OSError, SafetensorError) as error:
            beside.unlink(missing_ok=True)
            raise BackendError(f"cannot write {file} ({error}): free some space") from error

    def load(self, file: Path) -> None:
        """Go on from a saved state; BackendError if it is damaged or of another student."""
        try:
            with safe_open(str(file), framework="pt") as stream:
                found: Mapping[str, Any] = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
                step = int(json.loads((stream.metadata() or {})["step"]))
            with torch.no_grad():
                for name, p in self.own.items():
                    p.copy_(found[f"own.{name}"])
                    keys = ("step", "exp_avg", "exp_avg_sq")
                    state = {key: found[f"optimizer.{key}.{name}"].clone() for key in keys}
                    self.optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise BackendError(f"{file} is not a state of this student ({error}): delete it to start again") from error
        self.step = step


def _one_thread() -> None:
    torch.set_num_threads(1)


def _rows(trace: Trace, start: int, count: int) -> Trace:
    """Rows start..start+count of a trace, without the columns after the last judged position."""
    rows = slice(start, start + count)
    end = max(1, int(trace.stop[rows].max()))
    return Trace(
        trace.tokens[rows, :end],
        trace.hidden[rows, :end],
        trace.log_norm[rows, :end],
        trace.first[rows],
        trace.stop[rows],
    )
