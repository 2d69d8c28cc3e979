"""The comparison itself: every method on every prompt, interleaved in random order, each run on record at once."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from sprinter.alone import alone
from sprinter.bench import journal
from sprinter.bench.data import load_prompts
from sprinter.bench.flops import run_flops
from sprinter.bench.journal import Journal, Record
from sprinter.bench.latency import MemoryPeak, Stopwatch
from sprinter.bench.methods import Account, Bench, EngineMethod, Method, Spec, Task, make_method, parse_specs
from sprinter.bench.quality import read_output
from sprinter.core.records import Emitted
from sprinter.detokenise import TextStream
from sprinter.errors import ConfigError, DataError
from sprinter.learn.prompts import Prompt
from sprinter.provenance import stamp

EXACT_LENGTHS: Final = range(1, 9)
_SEED_STEP: Final = 1_000_003  # keeps the seeds of unlike prompts apart


@dataclass(frozen=True)
class BenchConfig:
    """What to compare on what; everything a resumed run must find unchanged."""

    data: str = "sample"
    methods: str = "target,exact,sprinter"
    prompts: int = 100
    max_new_tokens: int = 64
    seed: int = 0
    buckets: tuple[int, ...] = ()
    column: str = "text"
    warmup: int = 2  # prompts that are run and not recorded
    samples: int = 4  # prompts whose texts the report shows token by token

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.max_new_tokens < 2 or self.warmup < 1 or self.samples < 0:
            raise ConfigError("a comparison needs 1 prompt, 2 new tokens and 1 warm-up prompt at least")


@dataclass(frozen=True, slots=True)
class Step:
    """Progress: `done` of `total` runs, and how the latest went."""

    done: int
    total: int
    method: str
    failed: bool


def run_bench(
    config: BenchConfig, bench: Bench, folder: Path, resume: bool = False, on_step: Callable[[Step], None] | None = None
) -> None:
    """Run a comparison, or what is left of one, into `folder`. What is done stays on record if it is interrupted.

    One process at a time. Raises ConfigError, DataError, BackendError or CertificateError before the first run; a run
    that fails later becomes a failure record.
    """
    with alone(folder):
        _compare(config, bench, folder, resume, on_step)


def _compare(
    config: BenchConfig, bench: Bench, folder: Path, resume: bool, on_step: Callable[[Step], None] | None
) -> None:
    specs = parse_specs(config.methods)
    bench = dataclasses.replace(bench, max_new_tokens=config.max_new_tokens)
    asked = _asked(config, bench)
    known = journal.resume(folder, asked) if resume and (folder / journal.RUN_FILE).exists() else None
    if known is None:
        journal.refuse_old(folder)
    chosen = load_prompts(
        config.data, config.prompts + config.warmup, config.seed, config.buckets or None, config.column
    )
    prompts = chosen[: config.prompts]
    stage = Stage(bench, config, prompts)
    # Warm-up prompts are others than the measured ones wherever there are enough.
    warm = [stage.task(prompt, -1 - n) for n, prompt in enumerate(chosen[-config.warmup :])]
    methods: list[Method] = []
    if known is None:
        methods = [_built(spec, stage, warm) for spec in specs]
        kept = journal.begin(folder, _run_record(asked, stage, methods))
    else:
        results, kept = known
        if [prompt.id for prompt in prompts] != [prompt["id"] for prompt in results.run["prompts"]]:
            raise DataError(
                f"{config.data} no longer holds the prompts of the comparison in {folder}: name another --out"
            )
        methods = [_rebuilt(spec, told, stage) for spec, told in zip(specs, results.run["methods"], strict=True)]
    for method in methods:
        for task in warm:
            stage.measure(method, task)
    _interleave(stage, methods, kept, on_step)


def _asked(config: BenchConfig, bench: Bench) -> dict[str, Any]:
    """Everything that was asked, files by their names alone: where they lie is nobody's business in a result."""
    models = dataclasses.asdict(bench.pair.config)
    return {
        **dataclasses.asdict(config),
        "data": _name(config.data),
        "models": {**models, **{part: _name(models[part]) for part in ("target", "draft", "verifier")}},
        "sampling": dataclasses.asdict(bench.sampling),
        "peer_weights": bench.peer_weights,
        "confidence": bench.confidence,
        "certificates": None if bench.certificates is None else bench.certificates.name,
        "references": [hashlib.sha256(text.encode()).hexdigest()[:16] for text in bench.references],
    }


def _run_record(asked: Mapping[str, Any], stage: Stage, methods: Sequence[Method]) -> dict[str, Any]:
    pair = stage.bench.pair
    infos = {"target": dataclasses.asdict(pair.target.info)}
    record = stamp(dict(asked), stage.config.seed)
    if "draft" in pair.__dict__:  # loaded because a method uses it
        infos["draft"] = dataclasses.asdict(pair.draft.info)
    return {
        "asked": asked,
        "methods": [{"name": m.name, "facts": dict(m.facts)} for m in methods],
        "models": infos,
        "prompts": [dataclasses.asdict(p) | {"reference": stage.reference(p)} for p in stage.prompts],
        "record": {**record, "command": " ".join(map(_name, record["command"].split(" ")))},
    }


def _name(text: str) -> str:
    """An option or file name without the folders before it, where they begin at a root, a home or outside of here."""
    return re.sub(r"(^|=)[~/.][^=]*/(?=[^/])", r"\1", text)


def _interleave(stage: Stage, methods: Sequence[Method], kept: Journal, on_step: Callable[[Step], None] | None) -> None:
    """Every method on a prompt before any goes on to the next, in an order drawn anew for each prompt."""
    total = len(stage.prompts) * len(methods)
    for place, prompt in enumerate(stage.prompts):
        order = np.random.default_rng([stage.config.seed, place]).permutation(len(methods))
        for turn, number in enumerate(order.tolist()):
            method = methods[number]
            if kept.has(method.name, prompt.id):
                continue
            record = stage.measure(method, stage.task(prompt, place), pieces=place < stage.config.samples)
            kept.add({"method": method.name, "prompt": prompt.id, "place": place, "turn": turn, **record})
            if on_step is not None:
                on_step(Step(len(kept), total, method.name, "error" in record))


def _built(spec: Spec, stage: Stage, warm: Sequence[Task]) -> Method:
    if spec.kind == "exact" and spec.value is None and not spec.options:
        return _best_exact(stage, warm)
    return make_method(spec, stage.bench)


def _rebuilt(spec: Spec, told: Mapping[str, Any], stage: Stage) -> Method:
    """The method as the interrupted run had it: a draft length chosen then is not chosen again."""
    if spec.kind == "exact" and "chosen_length" in told["facts"]:
        return _exact(stage, int(told["facts"]["chosen_length"]), told["name"], told["facts"]["ms_per_token"])
    return make_method(spec, stage.bench)


def _best_exact(stage: Stage, warm: Sequence[Task]) -> Method:
    """Exact decoding with the draft length that is fastest on the warm-up prompts; its name says which."""
    speeds: dict[str, float] = {}
    for length in EXACT_LENGTHS:
        method = make_method(Spec("exact", length, {}, f"exact:{length}"), stage.bench)
        stage.measure(method, warm[0])  # the first run of a width pays for its kernels
        records = [stage.measure(method, task) for task in warm]
        failed = [record for record in records if "error" in record]
        if failed:
            raise ConfigError(f"exact decoding fails on the warm-up prompts: {failed[0]['error']}")
        speeds[str(length)] = 1000 * sum(r["seconds"] for r in records) / sum(len(r["ids"]) for r in records)
    best = min(speeds, key=lambda length: speeds[length])
    return _exact(stage, int(best), f"exact-best:{best}", speeds)


def _exact(stage: Stage, length: int, name: str, speeds: Mapping[str, float]) -> Method:
    method = make_method(Spec("exact", length, {}, name), stage.bench)
    assert isinstance(method, EngineMethod), "exact decoding is one of our own engines"
    method.facts = {**method.facts, "chosen_length": length, "ms_per_token": dict(speeds)}
    return method


class Stage:
    """What every run of a comparison shares: the tokenizer, the limits, the target that reads every output."""

    def __init__(self, bench: Bench, config: BenchConfig, prompts: Sequence[Prompt]) -> None:
        self.bench, self.config, self.prompts = bench, config, prompts
        self.pair = bench.pair
        self._limits = self.pair.limits(with_draft=False)
        self._readings: dict[tuple[int, ...], Any] = {}  # of the present prompt, by output
        self._reading_of: tuple[int, ...] = ()

    def task(self, prompt: Prompt, place: int) -> Task:
        """A prompt's task; every method gets the same seed for it."""
        ids = self.pair.tokenizer.encode(prompt.text)
        return Task(tuple(ids), self.config.max_new_tokens, abs(self.config.seed * _SEED_STEP + place))

    def reference(self, prompt: Prompt) -> str:
        """The continuation in the source, cut to as many tokens as a method may write."""
        if not prompt.reference:
            return ""
        tokenizer = self.pair.tokenizer
        return tokenizer.decode(tokenizer.encode(prompt.reference)[: self.config.max_new_tokens])

    def measure(self, method: Method, task: Task, pieces: bool = False) -> Record:
        """One run under the clock, and what the target thinks of it; {"error": ...} if it fails."""
        started = perf_counter()
        device = self.pair.config.device
        watch, memory = Stopwatch(task.max_new_tokens, self.pair.tokenizer.eos_ids, device), MemoryPeak(device)
        try:
            method.prepare(task)
            with memory, watch:
                method.write(task, watch.emit)
            account = method.account()
            if not watch.ids:
                return {"error": "the method wrote no token", "wall_s": perf_counter() - started}
            return self._record(task, watch, memory, account, pieces)
        except Exception as error:  # whatever a method raises is a failure of that method on that prompt
            return {"error": f"{type(error).__name__}: {error}"[:500], "wall_s": perf_counter() - started}

    def _record(self, task: Task, watch: Stopwatch, memory: MemoryPeak, account: Account, pieces: bool) -> Record:
        counters, ids = account.counters, watch.ids
        draft = self.pair.draft.info if counters.draft_tokens else None
        peak_mib, rise_mib = account.memory_mib or (memory.peak_mib, memory.rise_mib)
        length = len(task.prompt) + len(ids)
        flops = run_flops(self.pair.target.info, draft, counters, account.tested, length, len(task.prompt))
        reading = self._read(task.prompt, ids)
        delta = account.delta
        if delta is None and reading["mismatch"] is not None:
            # Under greedy decoding a law is one token, so its total variation from the target's is 0 or 1.
            delta = reading["mismatch"]
        return {
            "ids": ids,
            "text": self.pair.tokenizer.decode(ids),
            "prompt_tokens": len(task.prompt),
            "seconds": watch.seconds,
            "times_ms": [round(1000 * t, 3) for t in watch.times_s],
            "counters": dataclasses.asdict(counters),
            "tested": account.tested,
            "runs": account.runs,
            "origins": account.origins[: len(ids)],
            "scores": account.scores[: len(ids)],
            "judged": account.judged,
            "delta": delta,
            "flops": {"target": flops.target, "draft": flops.draft, "paper": flops.paper},
            "peak_mib": peak_mib,
            "rise_mib": rise_mib,
            **reading,
            **({"pieces": self._pieces(task.prompt, ids)} if pieces else {}),
        }

    def _read(self, prompt: tuple[int, ...], ids: Sequence[int]) -> dict[str, Any]:
        """The target's reading; equal outputs of one prompt are read once."""
        if prompt != self._reading_of:
            self._readings, self._reading_of = {}, prompt
        key = tuple(ids)
        if key not in self._readings:
            size = self._limits.vocab_size
            reading = read_output(self.pair.target, self.bench.sampling, prompt, ids, size)
            self._readings[key] = dataclasses.asdict(reading)
        return dict(self._readings[key])

    def _pieces(self, prompt: Sequence[int], ids: Sequence[int]) -> list[str]:
        """The text each id adds."""
        stream = TextStream(self.pair.tokenizer.fast, prompt)
        return [token.text for token in stream.tokens(Emitted(i, "target", None) for i in ids)]
