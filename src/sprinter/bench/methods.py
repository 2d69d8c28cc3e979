"""What is compared: each method a small adapter behind one protocol, named by a short text such as `sprinter:0.7`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from sprinter.bench.timing import forget
from sprinter.build import Pair, build_engine, settle
from sprinter.config import DecodingConfig, from_mapping
from sprinter.core.records import Counters, Draft, Emitted, FloatArray, Law, RowFacts, Verdict
from sprinter.core.sampling import Dice, Sampling
from sprinter.drafters.ahead import ChunkDrafter
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine, Run
from sprinter.errors import ConfigError
from sprinter.gates.fallback import FallbackGate
from sprinter.models.base import LanguageModel
from sprinter.observers.audit import Audit
from sprinter.rules.rollback import RollbackRule

Emit = Callable[[Sequence[int]], None]

ORIGIN_LETTERS: Final = {"vouched": "v", "tested": "t", "resampled": "r", "bonus": "b", "target": "g"}


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt for one method."""

    prompt: tuple[int, ...]  # token ids
    max_new_tokens: int
    seed: int


@dataclass(slots=True)
class Account:
    """What a method tells of a finished run besides the ids it emitted."""

    counters: Counters
    tested: int | None = None  # drafted tokens nobody vouched for, which the target therefore tested
    runs: list[int] = field(default_factory=list)  # drafted tokens per target call
    origins: str = ""  # a letter of ORIGIN_LETTERS per token; empty where a method does not tell
    scores: list[float | None] = field(default_factory=list)
    judged: list[tuple[float, float]] = field(default_factory=list)  # (score, the target's chance of accepting)
    delta: float | None = None  # mean one-step total variation by the closing audit; None where nobody can tell


class Method(Protocol):
    """A way of writing text, timed from outside: only `write` runs under the clock."""

    @property
    def name(self) -> str: ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What ran, as JSON types: models, number formats, settings."""

    def prepare(self, task: Task) -> None:
        """Forget whatever an earlier run left in caches."""

    def write(self, task: Task, emit: Emit) -> None:
        """Write the text, handing every generated id to `emit` the moment it is final."""

    def account(self) -> Account:
        """The account of the last `write`; may call the target once more to close its audit."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A method as the user names it: kind, optional value, options, as in `lookahead:0.4+scorer=typical`."""

    kind: str
    value: float | None
    options: Mapping[str, str]
    text: str

    def number(self, name: str, default: float) -> float:
        """An option that is a number; ConfigError if it is none."""
        return _number(self.options[name], self.text) if name in self.options else default


@dataclass(frozen=True, slots=True)
class Bench:
    """What the methods of one comparison share."""

    pair: Pair
    sampling: Sampling
    certificates: Path | None = None  # None: the shipped ones
    confidence: float = 0.95
    peer_weights: str = "float32"
    max_new_tokens: int = 0  # what a run may write, to be held against what a certificate speaks of


Maker = Callable[[Spec, Bench], Method]


def parse_specs(text: str) -> list[Spec]:
    """The specs of a comma-separated list. Raises ConfigError for an unknown kind or a repeated method."""
    specs = [_spec(part.strip()) for part in text.split(",") if part.strip()]
    if not specs:
        raise ConfigError("no methods: name some, for example target,exact,sprinter:0.7")
    names = [spec.text for spec in specs]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ConfigError(f"method {repeated[0]!r} is named twice")
    return specs


def _spec(text: str) -> Spec:
    kind, _, rest = text.partition(":")
    if kind not in makers():
        raise ConfigError(f"unknown method {kind!r}: choose from {', '.join(makers())}")
    value: float | None = None
    options: dict[str, str] = {}
    for part in filter(None, rest.split("+")):
        name, equals, given = part.partition("=")
        if equals:
            options[name] = given
        elif value is None:
            value = _number(part, text)
        else:
            raise ConfigError(f"method {text!r} has two values: write options as name=value, joined by +")
    return Spec(kind, value, options, text)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"method {where!r}: {text!r} is not a number") from None


def makers() -> dict[str, Maker]:
    """Every kind of method by name; a new one is one entry here."""
    from sprinter.bench import peers  # noqa: PLC0415 - it builds on this module

    own: dict[str, Maker] = dict.fromkeys(
        ("target", "draft", "exact", "lossless", "sprinter", "lookahead", "paper", "confidence"), _own
    )
    return {**own, "bild": _bild, **peers.MAKERS}


def make_method(spec: Spec, bench: Bench) -> Method:
    """The method of a spec. Raises ConfigError, BackendError, CertificateError."""
    return makers()[spec.kind](spec, bench)


def _own(spec: Spec, bench: Bench) -> Method:
    config, told = decoding_of(spec, bench)
    config = settle(bench.pair, config)
    engine = build_engine(bench.pair, config, bench.sampling)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    exact = config.method in ("target", "exact", "lossless")
    return EngineMethod(spec.text, engine, {"decoding": settings, **told}, exact)


_MAIN_OPTION: Final = {
    "exact": "draft_length",
    "lossless": "lookahead",
    "sprinter": "threshold",
    "lookahead": "threshold",
    "confidence": "threshold",
}


def decoding_of(spec: Spec, bench: Bench) -> tuple[DecodingConfig, dict[str, Any]]:
    """The decoding settings of one of our own methods, and what a certificate says about them."""
    own = {"paper": {"preset": "paper"}, "confidence": {"scorer": "confidence"}}.get(spec.kind, {})
    method = "sprinter" if own else spec.kind
    values: dict[str, Any] = {"method": method, **own}
    wishes = {name: spec.number(name, 0) for name in ("tv", "atypical") if name in spec.options}
    for name, given in spec.options.items():
        if name not in wishes:
            values[name] = given if name == "scorer" else _whole(_number(given, spec.text))
    if spec.value is not None:
        if spec.kind not in _MAIN_OPTION:
            raise ConfigError(f"method {spec.kind!r} takes no value, so {spec.text!r} means nothing")
        values[_MAIN_OPTION[spec.kind]] = _whole(spec.value)
    config = from_mapping(DecodingConfig, values, f"method {spec.text!r}")
    return _certified(config, wishes, values, bench) if wishes else (config, {})


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _certified(
    config: DecodingConfig, wishes: Mapping[str, float], given: Mapping[str, Any], bench: Bench
) -> tuple[DecodingConfig, dict[str, Any]]:
    from sprinter.certify.choose import OPEN_SETTINGS, Wish, grant  # noqa: PLC0415

    wish = Wish(wishes.get("tv"), wishes.get("atypical"), bench.confidence, bench.certificates)
    insisted = [name for name in OPEN_SETTINGS if name in given]
    choice = grant(wish, bench.pair, config, bench.sampling, bench.max_new_tokens, insisted)
    told = {"certificate": choice.path.name, "statements": list(choice.statements), "caveat": choice.caveat}
    return choice.apply(config), told


def _bild(spec: Spec, bench: Bench) -> Method:
    """`bild:FALLBACK+rollback=NATS`. The paper tunes both per task; the defaults lie in its range."""
    fallback = 0.6 if spec.value is None else spec.value
    rollback, max_draft = spec.number("rollback", 3.0), int(spec.number("max_draft", 20))
    unknown = [name for name in spec.options if name not in ("rollback", "max_draft")]
    if unknown:
        raise ConfigError(f"method {spec.text!r}: bild has no option {unknown[0]!r}")
    pair, limits = bench.pair, bench.pair.limits(with_draft=True)
    drafter = ModelDrafter(pair.draft, bench.sampling, limits.vocab_size, echoes=False)
    rule = RollbackRule(fallback, rollback, bench.sampling)
    engine = Engine(pair.target, drafter, FallbackGate(fallback, max_draft), rule, Sampling(1.0), limits)
    settings = {"method": "bild", "fallback": fallback, "rollback": rollback, "max_draft": max_draft}
    return EngineMethod(spec.text, engine, {"decoding": settings}, exact=False, audited=False)


class EngineMethod:
    """One of our own engines as a method."""

    def __init__(self, name: str, engine: Engine, facts: Mapping[str, Any], exact: bool, audited: bool = True) -> None:
        """`exact`: the output law is the target's. `audited`: the audit's losses speak of this rule."""
        self.name = name
        self.engine = engine
        self.exact = exact
        self.audited = audited
        self.models: list[LanguageModel] = [engine.target]
        drafter = engine.drafter
        if isinstance(drafter, ModelDrafter | ChunkDrafter) and drafter.model is not engine.target:
            self.models.append(drafter.model)
        self.facts: Mapping[str, Any] = {
            **facts,
            "runs_on": [f"{m.info.name} ({m.info.backend}, {m.info.weights})" for m in self.models],
        }
        self._run: Run | None = None
        self._audit = TallyAudit()
        self._emitted: list[Emitted] = []

    def prepare(self, task: Task) -> None:
        for model in self.models:
            forget(model, task.prompt)

    def write(self, task: Task, emit: Emit) -> None:
        self._audit, self._emitted = TallyAudit(), []
        dice = Dice(np.random.default_rng(task.seed))
        self._run = self.engine.start(task.prompt, task.max_new_tokens, dice, self._audit)
        for emitted in self._run:
            emit((emitted.id,))
            self._emitted.append(emitted)

    def account(self) -> Account:
        assert self._run is not None, "write comes before account"
        # Copied before the closing call, which serves the account and not the text.
        counters, runs = dataclasses.replace(self._run.counters), list(self._audit.runs)
        tested = self._audit.tested
        self._run.close_audit()
        losses = self._audit.tv_losses
        delta = 0.0 if self.exact else (float(np.mean(losses)) if losses else None)
        return Account(
            counters=counters,
            tested=counters.target_calls if counters.draft_steps == 0 else tested,
            runs=runs,
            origins="".join(ORIGIN_LETTERS[e.origin] for e in self._emitted),
            scores=[None if e.score is None else round(e.score, 3) for e in self._emitted],
            judged=self._audit.judged if self.audited else [],
            delta=delta if self.audited else None,
        )


class TallyAudit(Audit):
    """An audit that also notes each round's length, its tested tokens, and how the scores fared."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[int] = []
        self.tested = 0
        self.judged: list[tuple[float, float]] = []

    def observe(
        self,
        draft: Draft,
        verdict: Verdict,
        laws: Sequence[Law],
        logits: FloatArray,
        facts: RowFacts | None = None,
    ) -> None:
        first = len(self.tv_losses)
        super().observe(draft, verdict, laws, logits, facts)
        self.runs.append(len(draft))
        self.tested += draft.vouched.count(False)
        rejected = verdict.next_origin == "resampled"
        for place, score in enumerate(draft.scores[: verdict.num_kept + rejected]):
            if score is not None:
                # A vouched token's chance of acceptance is known, a tested one's by the outcome of its test.
                lost = self.tv_losses[first + place] if place < verdict.num_kept else 1.0
                self.judged.append((round(score, 3), round(1.0 - lost, 4)))
