"""What is compared: each method a small adapter behind one protocol, named by a short text such as `sprinter:0.7`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from sprinter.build import Pair, build_recipe, settle
from sprinter.config import Config, DecodingConfig, GenerationConfig
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.reading import Reading
from sprinter.core.records import NO_BUDGET, Budget, Counters, Emitted, Origin
from sprinter.core.rows import Model, ModelInfo
from sprinter.core.sampling import Sampling
from sprinter.core.settings import from_mapping, in_types
from sprinter.core.text import Limits, Text
from sprinter.core.tree import Verdict
from sprinter.drafters.copies import PROMPT
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.methods import Method as Way
from sprinter.observers.audit import Audit
from sprinter.observers.clock import Stopwatch
from sprinter.registry import find, names

Emit = Callable[[Sequence[int]], None]

ORIGIN_LETTERS: Final[Mapping[Origin, str]] = {
    "vouched": "v",
    "tested": "t",
    "resampled": "r",
    "bonus": "b",
    "target": "g",
}


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
    tested: int | None = None  # drafted tokens that nobody vouched for, and the target's calls without a draft
    runs: list[int] = field(default_factory=list)  # drafted tokens per target call
    origins: str = ""  # a letter of ORIGIN_LETTERS per token; empty where a method does not tell
    scores: list[float | None] = field(default_factory=list)
    judged: list[tuple[float, float]] = field(default_factory=list)  # (score, the target's chance of accepting)
    delta: float | None = None  # mean one-step total variation by the closing audit; None where nobody can tell
    memory_mib: tuple[float | None, float | None] | None = None  # (peak, rise) of a process of its own


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
    references: tuple[str, ...] = (PROMPT,)  # texts that methods which copy may copy from


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


_PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    "paper": {"preset": "paper"},
    "confidence": {"scorer": "confidence"},
}


def makers() -> dict[str, Maker]:
    """Every kind of method by name: the registered ones, two presets of sprinter, and the peers, each apart."""
    from sprinter.bench.apart import Apart  # noqa: PLC0415 - it builds on this module
    from sprinter.bench.peers import MAKERS  # noqa: PLC0415 - likewise

    own: dict[str, Maker] = dict.fromkeys((*names("methods"), *_PRESETS), _own)
    return {**own, **dict.fromkeys(MAKERS, Apart)}


def make_method(spec: Spec, bench: Bench) -> Method:
    """The method of a spec. Raises ConfigError, BackendError, CertificateError."""
    return makers()[spec.kind](spec, bench)


_LIMITS = ("max_total_tv", "max_atypical_tokens")  # of a whole text, where a certificate was made with them


def _own(spec: Spec, bench: Bench) -> Method:
    config, told = decoding_of(spec, bench)
    config = settle(bench.pair, config)
    recipe = build_recipe(bench.pair, config)
    models = [bench.pair.target.info, *([bench.pair.draft.info] if recipe.runs_draft else [])]
    settings = {k: v for k, v in dataclasses.asdict(config).items() if v not in (None, ())}
    facts = {"decoding": settings, **told, "runs_on": [_place(info) for info in models]}
    limits = bench.pair.limits(with_draft=recipe.runs_draft)
    budget = from_mapping(
        GenerationConfig, {n: told[n] for n in _LIMITS if told.get(n) is not None}, "certificate"
    ).budget
    return EngineMethod(spec.text, bench.pair.target, recipe, bench.sampling, limits, facts, budget)


def _place(info: ModelInfo) -> str:
    return f"{info.name} ({info.backend}, {info.weights})"


def decoding_of(spec: Spec, bench: Bench) -> tuple[DecodingConfig, dict[str, Any]]:
    """The decoding settings of one of our own methods, and what a certificate says about them."""
    preset = _PRESETS.get(spec.kind, {})
    name = "sprinter" if preset else spec.kind
    way: Way = find("methods", name)
    wishes = {wish: spec.number(wish, 0) for wish in ("tv", "atypical") if wish in spec.options}
    words = {option: word for option, word in spec.options.items() if option not in wishes}
    if spec.value is not None:
        if not way.dial:
            raise ConfigError(f"method {spec.kind!r} takes no value, so {spec.text!r} means nothing")
        words[way.dial] = f"{spec.value:.17g}"  # 4 for 4.0, and every digit of the others
    own = {f.name for f in fields(DecodingConfig)}
    values: dict[str, Any] = {"method": name, **preset, **{k: word for k, word in words.items() if k in own}}
    values = in_types(DecodingConfig, values)
    # What we do not know is asked of the method's parts from other packages.
    values["options"] = tuple(f"{k}={word}" for k, word in words.items() if k not in own)
    if "references" in way.obeys():
        values.setdefault("references", bench.references)
    config = from_mapping(DecodingConfig, values, f"method {spec.text!r}")
    return _certified(config, wishes, values, bench) if wishes else (config, {})


def _certified(
    config: DecodingConfig, wishes: Mapping[str, float], given: Mapping[str, Any], bench: Bench
) -> tuple[DecodingConfig, dict[str, Any]]:
    from sprinter.certify.asked import Asked  # noqa: PLC0415
    from sprinter.certify.choose import OPEN_SETTINGS, Wish, grant  # noqa: PLC0415

    wish = Wish(wishes.get("tv"), wishes.get("atypical"), confidence=bench.confidence, certificate=bench.certificates)
    insisted = [name for name in OPEN_SETTINGS if name in given]
    asked = Asked(bench.sampling, bench.max_new_tokens)
    choice = grant(wish, bench.pair, config, asked, insisted)
    told = {"certificate": choice.path.name, "statements": list(choice.statements), "caveat": choice.caveat}
    made = choice.at(choice.threshold, Config(decoding=config))
    return made.decoding, told | {name: getattr(made.generation, name) for name in _LIMITS}


class EngineMethod:
    """One of our own recipes as a method."""

    def __init__(
        self,
        name: str,
        target: Model,
        recipe: Recipe,
        sampling: Sampling,
        limits: Limits,
        facts: Mapping[str, Any],
        budget: Budget = NO_BUDGET,
    ) -> None:
        self.name, self.facts, self._budget = name, facts, budget
        self._recipe, self._sampling, self._limits = recipe, sampling, limits
        self._engine = Engine(target, clocks=[Stopwatch()])
        self._text: Text | None = None
        self._audit, self._rounds = Audit.of(recipe), Rounds()
        self._emitted: list[Emitted] = []

    def prepare(self, task: Task) -> None:
        """See `Method.prepare`: every text has caches of its own."""

    def write(self, task: Task, emit: Emit) -> None:
        """See `Method.write`."""
        self._audit, self._rounds, self._emitted = Audit.of(self._recipe, self._budget), Rounds(), []
        text = Text(task.prompt, task.max_new_tokens, self._sampling, Chance(task.seed), self._limits)
        text.hold_to(self._audit.may_vouch)
        self._text = self._engine.begin(text, self._recipe, [self._audit, self._rounds])
        while text.finish_reason is None:
            self._engine.tick([text])
            emitted, text.out = text.out, []
            emit([item.id for item in emitted])
            self._emitted += emitted
        if text.error is not None:
            raise text.error

    def account(self) -> Account:
        """See `Method.account`."""
        text, rule = self._text, self._recipe.rule
        assert text is not None, "write comes before account"
        # Copied before the closing call, which serves the account and not the text.
        counters, runs, tested = dataclasses.replace(text.counters), list(self._rounds.lengths), self._rounds.tested
        self._engine.close_audit([text])
        losses = self._audit.tv_losses
        text.forget()
        return Account(
            counters=counters,
            tested=tested,
            runs=runs,
            origins="".join(ORIGIN_LETTERS[e.origin] for e in self._emitted),
            scores=[None if e.score is None else round(e.score, 3) for e in self._emitted],
            judged=[] if rule.lossy_tests else self._rounds.judged,
            delta=None if rule.lossy_tests or not losses else 0.0 if self._recipe.exact else float(np.mean(losses)),
        )


class Rounds:
    """Notes each round's length, its tested tokens, and how the scores fared."""

    keeps_drafts = False

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.tested = 0
        self.judged: list[tuple[float, float]] = []  # (score, the target's chance of accepting)

    def saw(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Observer.saw`."""
        tree = text.tree
        self.lengths.append(len(tree))
        self.tested += tree.vouched.count(0) if len(tree) else 1  # with nothing drafted it reads its own last token
        for node in verdict.path:
            if (score := tree.scores[node]) is not None:
                # A vouched token's chance of acceptance is known, a tested one's by the outcome of its test.
                chance = reading.before(node).prob(tree.tokens[node]) / tree.probs[node] if tree.vouched[node] else 1.0
                self.judged.append((round(score, 3), round(min(1.0, chance), 4)))
        fallen = len(verdict.path)
        if verdict.origin == "resampled" and fallen < len(tree.scores) and (score := tree.scores[fallen]) is not None:
            self.judged.append((round(score, 3), 0.0))
