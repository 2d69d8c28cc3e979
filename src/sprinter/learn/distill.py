"""Make a draft for a target that has none: cut layers out of it and train them to speak like the whole.

Three stages, each resumable: the target writes (or reads) text and its hidden states are stored; the tokens of the
draft's head are chosen by the target's own probability; the cut layers are trained on the stored states.
Entries of buckets 0-5 train, 8-9 are held out (splits.py); the others are left for the verifier and the certificate.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sprinter import provenance
from sprinter.alone import alone
from sprinter.errors import BackendError, ConfigError, DataError
from sprinter.learn import corpus, head, splits, step_attention, student
from sprinter.learn.precision import compute_dtype
from sprinter.learn.teacher import OutputLaw, output_law
from sprinter.learn.trained import note_trained
from sprinter.learn.trainer import Progress, Score, TrainConfig, Trainer
from sprinter.models import checkpoint


@dataclass(frozen=True)
class DistillConfig:
    """What draft to make and how. `layers` is a count, or the target's layer indices to copy."""

    layers: int | tuple[int, ...] = 4
    feed_forward: int | None = None  # neurons left in every layer's feed-forward part; None: all
    init: str | None = None  # folder of an earlier draft of this target to go on from, with the same layers and head
    head_tokens: int | None = None  # None: the whole vocabulary
    new_tokens: int = 80  # the target writes so many per prompt; 0: it reads the texts as they are
    judge_prompt: bool = True  # learn from the prompts' positions too, which the target reads anyway
    temperatures: tuple[float, ...] = (1.0, 1.0, 0.7, 0.0)  # drawn per prompt; 0 is greedy
    read_tokens: int = 128  # row length when the target only reads
    rows_per_job: int = 112
    max_entries: int | None = None
    held_out_entries: int = 64
    mass_positions: int = 20_000  # positions on which the head's tokens are chosen
    seed: int = 0
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if isinstance(self.layers, int) and self.layers < 1:
            raise ConfigError(f"layers must be at least 1, got {self.layers}")
        if self.head_tokens is not None and self.head_tokens < 2:
            raise ConfigError(f"head_tokens must be at least 2, got {self.head_tokens}")
        if self.new_tokens < 0 or min(self.read_tokens, self.rows_per_job, self.held_out_entries) < 1:
            raise ConfigError("new_tokens must not be negative; read_tokens, rows_per_job, held_out_entries at least 1")
        if not self.temperatures or min(self.temperatures) < 0:
            raise ConfigError(f"temperatures must be zero or more, got {self.temperatures}")


@dataclass(frozen=True)
class DistillEvents:
    """Callbacks for whoever shows progress; all optional."""

    on_collect: Callable[[str, int, int, int], None] = lambda part, done, total, tokens: None
    on_step: Callable[[Progress], None] = lambda progress: None


@dataclass(frozen=True)
class DistillResult:
    """Where the draft is and how it scored on held-out entries (of the given data, on the target's own text)."""

    out: Path
    score: Score
    head_coverage: float
    own_parameters: int


@dataclass(frozen=True)
class _Teacher:
    """The loaded target and what surrounds it."""

    path: Path
    model: Any
    tokenizer: Any
    law: OutputLaw
    end_ids: tuple[int, ...]


def distill(
    target: Path,
    data: Sequence[Path],
    out: Path,
    config: DistillConfig | None = None,
    work: Path | None = None,
    device: str = "cpu",
    events: DistillEvents | None = None,
) -> DistillResult:
    """Make a draft of `target` from the texts of `data` (JSON lines with `text`, optional `title` and `chat`).

    `work` (default: `out` + ".work") keeps traces and training state: called again after any interruption, the work
    goes on where it was. Raises DataError on bad texts or while another process works there, ConfigError on impossible
    settings, BackendError on damaged weights or a full disk, CapabilityError for a model family that cannot be cut.
    """
    config, events = config or DistillConfig(), events or DistillEvents()
    entries = [corpus.read_entries([file]) for file in data] or [corpus.read_entries(data)]
    work = work or out.with_name(out.name + ".work")
    with alone(work):
        _claim(work, target, data, config)
        teacher = load_teacher(target, device)
        _collect(_writer(teacher, config), entries, config, work, events)
        ids, covered = _head(teacher, config, work)
        trainer = _train(teacher, ids, config, work, events)
        score = trainer.score(work / "test", config.train.int4_group)
        export(trainer, teacher.path, ids, out, _record(config, entries, score, covered, work))
        learnt = [e for file in _part_of(entries, splits.DRAFT_BUCKETS, config.max_entries) for e in file]
        texts = [text for entry in learnt for text in (entry.title, splits.prompt_of(entry.text)[0])]
        note_trained(out, texts, None if config.init is None else Path(config.init))
    own = sum(p.numel() for p in trainer.own.values())
    return DistillResult(out, score, covered, own)


def _claim(work: Path, target: Path, data: Sequence[Path], config: DistillConfig) -> None:
    """Refuse a work folder begun with other settings: its traces or its training state would not fit."""
    settings = asdict(config)
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in data]
    plan = json.dumps({"target": str(target), "data": digests, "config": settings}, sort_keys=True)
    file = work / "plan.json"
    try:
        work.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(plan)
        elif file.read_text() != plan:
            raise ConfigError(f"{work} was begun with another target, data or settings: delete it or choose another")
    except OSError as error:
        raise BackendError(f"cannot write {work} ({error}): free some space or choose another folder") from error


def load_teacher(target: Path, device: str) -> _Teacher:
    """The target in float32 on the CPU, bfloat16 on an accelerator, with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - slow import

    target = checkpoint.open_checkpoint(target).path  # a GGUF file's is its conversion
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(target), dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(str(target), trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise BackendError(f"cannot load {target} ({str(error).splitlines()[0]}): is it a causal LM folder?") from error
    model = model.to(device).eval().requires_grad_(False)
    ends = {model.config.eos_token_id, tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None)}
    flat = {i for end in ends for i in (end if isinstance(end, list | tuple) else [end]) if i is not None}
    return _Teacher(target, model, tokenizer, output_law(model), tuple(sorted(flat)))


def _writer(teacher: _Teacher, config: DistillConfig) -> _Teacher:
    """The same target, its body in the format that computes fastest here; the law over its states stays as it was."""
    if compute_dtype(config.train.precision, teacher.model.device) == teacher.model.dtype:
        return teacher
    body = copy.deepcopy(teacher.model).bfloat16()
    if step_attention.fits(body):
        step_attention.install(body)
    return replace(teacher, model=body)


def _jobs(teacher: _Teacher, entries: Sequence[corpus.Entry], config: DistillConfig) -> list[corpus.Job]:
    if config.new_tokens:
        return corpus.writing_jobs(entries, teacher.tokenizer, config.temperatures, config.rows_per_job, config.seed)
    return corpus.reading_jobs(entries, teacher.tokenizer, config.read_tokens, config.rows_per_job, config.seed)


def _part_of(
    entries: Sequence[Sequence[corpus.Entry]], buckets: Iterable[int], limit: int | None
) -> list[list[corpus.Entry]]:
    """The entries of some buckets, at most `limit` in all, still file by file."""
    chosen, left = [], limit
    for file in entries:
        mine = splits.select(file, buckets, lambda entry: entry.title)[:left]
        left = None if left is None else left - len(mine)
        chosen.append(mine)
    return chosen


def _collect(
    teacher: _Teacher,
    entries: Sequence[Sequence[corpus.Entry]],
    config: DistillConfig,
    work: Path,
    events: DistillEvents,
) -> None:
    """Traces of the training entries in work/train, of held-out ones in work/test; `entries` are lists, one a file.

    Every file makes its own jobs, so a file added at the end leaves the traces of the earlier ones as they are.
    """
    writing = corpus.Writing(config.new_tokens, teacher.end_ids, config.seed)
    # Held out, only what the target writes counts: that is where a draft works.
    how = {"train": replace(writing, judge_prompt=config.judge_prompt), "test": writing}
    limits = {"train": config.max_entries, "test": config.held_out_entries}
    for part, buckets in (("train", splits.DRAFT_BUCKETS), ("test", splits.TEST_BUCKETS)):
        chosen = _part_of(entries, buckets, limits[part])
        jobs = [job for file in chosen for job in _jobs(teacher, file, config)]
        if not jobs:
            raise DataError(f"no {part} text is left after the split by entry: give more, or longer, texts")
        done = tokens = 0

        def on_job(judged: int, part: str = part, total: int = len(jobs)) -> None:
            nonlocal done, tokens
            done, tokens = done + 1, tokens + judged
            events.on_collect(part, done, total, tokens)

        corpus.collect(teacher.model, teacher.law, jobs, how[part], work / part, on_job)


def _head(teacher: _Teacher, config: DistillConfig, work: Path) -> tuple[torch.Tensor | None, float]:
    """(ids of the draft's head or None, share of the target's probability they cover)."""
    if config.head_tokens is None:
        return None, 1.0
    if config.init is not None:
        # Another head would be another draft: what was learnt belongs to these tokens.
        known = checkpoint.head_tokens(checkpoint.open_checkpoint(config.init))
        if known is None or len(known) != config.head_tokens:
            raise ConfigError(f"{config.init} has a head of {None if known is None else len(known)} tokens, not these")
        return known, float(head.target_mass(teacher.law, work / "train", config.mass_positions)[known].sum())
    mass = head.target_mass(teacher.law, work / "train", config.mass_positions)
    ids = head.head_ids(mass, config.head_tokens, teacher.end_ids)
    return ids, float(mass[ids.to(mass.device)].sum())


def _train(
    teacher: _Teacher, ids: torch.Tensor | None, config: DistillConfig, work: Path, events: DistillEvents
) -> Trainer:
    total = len(student.decoder_layers(teacher.model)[1])
    keep = config.layers if isinstance(config.layers, tuple) else student.default_layers(total, config.layers)
    law = teacher.law if ids is None else teacher.law.rows(ids.to(teacher.law.weight.device))
    trainer = Trainer(
        student.make_student(teacher.model, keep, config.feed_forward), law.to(torch.float32), config.train
    )
    if config.init is not None:
        _start_from(trainer, Path(config.init), teacher.path)
    state = work / "state.safetensors"
    if state.exists():
        trainer.load(state)
    for progress in trainer.run(work / "train", state):
        events.on_step(progress)
    return trainer


def _start_from(trainer: Trainer, earlier: Path, target: Path) -> None:
    """Copy an earlier draft's tensors into the student; BackendError or ConfigError if they are of another making."""
    opened = checkpoint.open_checkpoint(earlier)
    checkpoint.require_target(opened, checkpoint.open_checkpoint(target))
    if {name for name in opened.names if name != checkpoint.HEAD_TOKENS} != set(trainer.own):
        raise ConfigError(f"{earlier} has other layers than this draft: choose as many as it has")
    with torch.no_grad():
        for name, parameter in trainer.own.items():
            stored = opened.tensor(name)
            if stored.shape != parameter.shape:
                raise ConfigError(f"{earlier} has another shape of {name} than this draft: choose the same layers")
            parameter.copy_(stored)


def _record(
    config: DistillConfig, entries: Sequence[Sequence[corpus.Entry]], score: Score, covered: float, work: Path
) -> dict[str, Any]:
    """What the draft's folder says about its making."""
    # A draft is handed on; on whose disk the earlier one lay is nobody's business.
    init = None if config.init is None else Path(config.init).name
    return {
        "config": {**asdict(config), "init": init},
        "entries": sum(map(len, entries)),
        "trace_files": len(list(corpus.traces(work / "train"))),
        "head_coverage": round(covered, 4),
        "held_out": {
            "overlap": round(score.overlap, 4),
            "agreement": round(score.agreement, 4),
            "positions": score.positions,
        },
    }


def export(trainer: Trainer, target: Path, ids: torch.Tensor | None, out: Path, record: dict[str, Any]) -> None:
    """Write the student as a shared draft folder."""
    net: Any = trainer.student
    info = checkpoint.DraftInfo(
        student.shared_names(net), checkpoint.open_checkpoint(target).fingerprint, None, "", record
    )
    config = {**net.config.to_dict(), "architectures": [type(net).__name__], "dtype": "bfloat16"}
    how = provenance.stamp(asdict(trainer.config), trainer.config.seed)
    stamp = {"provenance": json.dumps(how), "step": str(trainer.step)}
    checkpoint.write_draft(out, config, student.own_state(net), info, None if ids is None else ids.tolist(), stamp)
