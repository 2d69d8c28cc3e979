"""Training texts -> a folder of traces: tokens with the target's hidden states, computed once and kept on disk."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sprinter.errors import BackendError, DataError
from sprinter.learn import splits
from sprinter.learn.prompts import json_lines
from sprinter.learn.teacher import OutputLaw, Trace, read_text, write_text

CUT = 8  # plain prompts are cut to a multiple of this many tokens, so that many have equal length


@dataclass(frozen=True)
class Entry:
    """One line of a data file; `chat` texts become a user's message in the target's chat template."""

    title: str
    text: str
    chat: bool = False


@dataclass(frozen=True)
class Job:
    """Rows of equal length for one target run; one job makes one file."""

    rows: tuple[tuple[int, ...], ...]  # token ids
    temperatures: tuple[float, ...]  # one per row, unused when only reading


def read_entries(files: Sequence[Path]) -> list[Entry]:
    """All lines of JSON-lines files; DataError names file and line number of the first bad one."""
    entries = [_entry(row, place) for file in files for place, row in json_lines(file)]
    if not entries:
        raise DataError(f"no texts in {', '.join(map(str, files)) or 'an empty list of files'}")
    return entries


def _entry(row: Mapping[str, Any], place: str) -> Entry:
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place} has no 'text': write one object with a non-empty 'text' per line")
    # Without a title the text names itself, so that splits by entry still hold.
    return Entry(str(row.get("title") or text), text, bool(row.get("chat", False)))


def prompt_ids(entry: Entry, tokenizer: Any) -> list[int]:
    """Token ids of the prompt of an entry: its first words, or the whole chat message in its template."""
    if entry.chat:
        message = [{"role": "user", "content": entry.text}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(splits.prompt_of(entry.text)[0])["input_ids"])


def writing_jobs(
    entries: Sequence[Entry], tokenizer: Any, temperatures: Sequence[float], rows_per_job: int, seed: int
) -> list[Job]:
    """Jobs in which the target continues prompts, in a random order that depends on the seed alone."""
    rng = random.Random(seed)
    by_length: dict[int, list[tuple[tuple[int, ...], float]]] = defaultdict(list)
    for entry in entries:
        ids = prompt_ids(entry, tokenizer)
        if not entry.chat and len(ids) > CUT:
            ids = ids[: len(ids) // CUT * CUT]
        if ids:
            by_length[len(ids)].append((tuple(ids), rng.choice(temperatures)))
    jobs = []
    for _, rows in sorted(by_length.items()):
        rng.shuffle(rows)
        for start in range(0, len(rows), rows_per_job):
            part = rows[start : start + rows_per_job]
            jobs.append(Job(tuple(ids for ids, _ in part), tuple(t for _, t in part)))
    rng.shuffle(jobs)
    return jobs


def reading_jobs(entries: Sequence[Entry], tokenizer: Any, seq: int, rows_per_job: int, seed: int) -> list[Job]:
    """Jobs in which the target reads the texts themselves, cut into rows of `seq` tokens."""
    rng = random.Random(seed)
    rows: list[tuple[int, ...]] = []
    for entry in entries:
        ids = prompt_ids(entry, tokenizer) if entry.chat else list(tokenizer(entry.text)["input_ids"])
        rows += [tuple(ids[i : i + seq]) for i in range(0, len(ids) - seq + 1, seq)]
    rng.shuffle(rows)
    parts = [rows[i : i + rows_per_job] for i in range(0, len(rows), rows_per_job)]
    return [Job(tuple(part), (1.0,) * len(part)) for part in parts]


@dataclass(frozen=True)
class Writing:
    """How the target writes: new tokens per prompt (0 = it only reads the given rows), ends of text, seed."""

    num_new: int
    end_ids: tuple[int, ...]
    seed: int
    judge_prompt: bool = False


def collect(
    model: Any, law: OutputLaw, jobs: Sequence[Job], how: Writing, folder: Path, on_job: Callable[[int], None]
) -> None:
    """Run the target over every job not yet in `folder`, one file per job; killed and started again, it goes on.

    `on_job(number of judged tokens)` is called after each job, also for those found done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, job in enumerate(jobs):
        file = folder / f"trace-{number:05d}.safetensors"
        if not file.is_file():
            tokens = torch.tensor(job.rows, device=law.weight.device)  # [rows, seq]
            if how.num_new == 0:
                trace = read_text(model, law, tokens)
            else:
                # Seeded per job, so that a resumed run writes what an uninterrupted one would have written.
                generator = torch.Generator().manual_seed(how.seed * 1_000_003 + number)
                heat = torch.tensor(job.temperatures, device=law.weight.device)  # [rows]
                trace = write_text(model, law, tokens, heat, how.num_new, how.end_ids, generator, how.judge_prompt)
            save_trace(trace, file)
        on_job(judged(load_trace(file)))


def judged(trace: Trace) -> int:
    """Number of positions at which the target's law is known."""
    return int((trace.stop - trace.first).clamp_min(0).sum())


def save_trace(trace: Trace, file: Path) -> None:
    """Write beside, then rename: a file that exists is whole. BackendError when the disk is full."""
    beside = file.with_suffix(".part")
    try:
        save_file({f.name: getattr(trace, f.name).contiguous() for f in fields(Trace)}, str(beside))
        beside.replace(file)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise BackendError(f"cannot write {file} ({error}): free some space") from error


def load_trace(file: Path) -> Trace:
    """Read one trace; tensors are mapped, not copied, where the file allows it."""
    try:
        with safe_open(str(file), framework="pt") as stream:
            return Trace(**{f.name: stream.get_tensor(f.name) for f in fields(Trace)})
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} is damaged ({error}): delete it and run again") from error


def traces(folder: Path) -> Iterator[Path]:
    """The finished trace files of a folder, in order."""
    yield from sorted(folder.glob("trace-*.safetensors"))
