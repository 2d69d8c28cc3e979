"""Settings as frozen dataclasses: one typed field makes the flag, the file key and the help text."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from sprinter.core.sampling import Sampling
from sprinter.errors import ConfigError

Method = Literal["target", "draft", "exact", "lossless", "sprinter", "lookahead"]
Preset = Literal["default", "paper"]
Backend = Literal["auto", "fast", "hf"]
ScorerName = Literal["accept", "accept_hard", "overlap", "typical", "confidence", "certainty", "margin"]
AuditMode = Literal["free", "close"]

UNTRAINED_SCORERS = ("confidence", "certainty", "margin")
PAPER_THRESHOLD = 0.5
PAPER_MAX_DRAFT = 20
MOST_CHUNK = 64  # steps of one launch: each lengthens its graph


def setting(default: Any, text: str) -> Any:
    """A dataclass field whose help text travels with it."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ModelConfig:
    """Which models, computed how."""

    target: str = setting("default", "Target model: a folder, a .gguf file, a hub id, or 'default'.")
    draft: str = setting("default", "Draft model: a folder, a .gguf file, a hub id, or 'default'.")
    verifier: str = setting("default", "Verifier folder made by sprinter train, 'default', or 'none'.")
    backend: Backend = setting("auto", "What computes the models: fast, hf (transformers), or auto.")
    weights: str = setting("auto", "Number format: auto, float32, bfloat16, int8 or int4 (int8, int4: fast only).")
    device: str = setting("cpu", "Device: cpu or cuda.")

    def __post_init__(self) -> None:
        _choice("backend", self.backend, get_args(Backend))
        _choice("weights", self.weights, ("auto", "float64", "float32", "float16", "bfloat16", "int8", "int4"))
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device is {self.device!r}, but must be cpu, cuda or cuda:N")


@dataclass(frozen=True)
class DecodingConfig:
    """How to decode: the method with its gate's settings."""

    method: Method = setting("sprinter", "target, draft, exact, lossless, sprinter or lookahead.")
    preset: Preset = setting("default", "'paper': threshold 0.5, at most 20 drafted tokens, the last one tested.")
    scorer: ScorerName = setting("accept", "What vouches: the verifier's accept or typical output, or confidence.")
    threshold: float | None = setting(None, "Vouch for a token whose score reaches this; default: the verifier's own.")
    lookahead: float | None = setting(
        None, "Draft past doubtful tokens while the chance all survive exceeds this; default: by the cost model."
    )
    max_draft: int | None = setting(None, "Most tokens drafted before the target is called (default 20; 0: no limit).")
    budget: float | None = setting(None, "Vouch while the predicted risk stays within this many tokens per 100.")
    draft_length: int | None = setting(None, "Tokens per round of the exact method (default 4).")
    draft_chunk: int | None = setting(
        None, "Draft steps per launch, ahead of the gate; 1: one at a time (default 4 on CUDA, else 1)."
    )

    def __post_init__(self) -> None:
        _choice("method", self.method, get_args(Method))
        _choice("preset", self.preset, get_args(Preset))
        _choice("scorer", self.scorer, get_args(ScorerName))
        if self.threshold is not None and math.isnan(self.threshold):
            raise ConfigError("threshold is not a number: give one between 0 (fast) and 1 (safe)")
        if self.lookahead is not None and not 0 <= self.lookahead <= 1:
            raise ConfigError(
                f"lookahead is {self.lookahead}, but must be between 0 and 1 (1 stops at the first doubt)"
            )
        if self.max_draft is not None and self.max_draft < 0:
            raise ConfigError(f"max_draft is {self.max_draft}, but must be 0 (no limit) or more")
        if self.draft_length is not None and self.draft_length < 1:
            raise ConfigError(f"draft_length is {self.draft_length}, but must be at least 1")
        if self.draft_chunk is not None and not 1 <= self.draft_chunk <= MOST_CHUNK:
            raise ConfigError(f"draft_chunk is {self.draft_chunk}, but must be between 1 and {MOST_CHUNK}")
        if self.budget is not None and not 0 <= self.budget <= 100:
            raise ConfigError(f"budget is {self.budget}, but must be between 0 (test all) and 100 (vouch for all)")
        if self.budget is not None and (self.threshold is not None or self.preset == "paper"):
            raise ConfigError("a budget takes the threshold's place: give one of them, and not preset 'paper'")
        self._refuse_idle_settings()

    def _refuse_idle_settings(self) -> None:
        """ConfigError for a setting its method would ignore."""
        users = {
            "draft_length": ("exact",),
            "lookahead": ("lookahead", "lossless"),
            "threshold": ("sprinter", "lookahead"),
            "budget": ("sprinter",),
            "max_draft": ("sprinter", "lookahead", "lossless"),
            "draft_chunk": ("draft", "exact", "sprinter", "lookahead", "lossless"),
        }
        for name, methods in users.items():
            if getattr(self, name) is not None and self.method not in methods:
                raise ConfigError(
                    f"{name} does nothing with method {self.method!r}: it belongs to {', '.join(methods)}"
                )
        if self.preset == "paper" and self.method != "sprinter":
            raise ConfigError(f"preset 'paper' is a way of method 'sprinter', not of {self.method!r}")

    @property
    def draft_cap(self) -> int | None:
        """Most tokens drafted per round; None for no limit."""
        if self.max_draft is None:
            return PAPER_MAX_DRAFT
        return self.max_draft or None

    @property
    def drafts_past_doubt(self) -> bool:
        return self.method in ("lossless", "lookahead")

    @property
    def survival(self) -> str:
        """Whose word counts on whether an unvouched token will pass, where it is not the scorer's; else ""."""
        return survival_by(self.method, self.scorer)

    @property
    def uses_scorer(self) -> bool:
        return self.method in ("lossless", "sprinter", "lookahead")

    @property
    def uses_verifier(self) -> bool:
        return self.uses_scorer and self.scorer not in UNTRAINED_SCORERS


@dataclass(frozen=True)
class GenerationConfig:
    """What to write: length, sampling, where to stop."""

    max_new_tokens: int = setting(128, "Most tokens to write.")
    temperature: float = setting(0.0, "0 is greedy; 1 samples from the model's own law.")
    top_k: int = setting(0, "Keep the k most probable tokens; 0 keeps all.")
    top_p: float = setting(1.0, "Keep the most probable tokens up to this mass; 1 keeps all.")
    min_p: float = setting(0.0, "Keep tokens at least this times as probable as the most probable; 0 keeps all.")
    repetition_penalty: float = setting(1.0, "Above 1 makes tokens already seen less likely.")
    stop: tuple[str, ...] = setting((), "End the text before this string; may be given several times.")
    seed: int = setting(0, "Seed of all chance in this generation.")
    audit: AuditMode = setting("free", "'close' adds a final target call so that no token stays unaudited.")

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}, but must be at least 1")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, but must be 0 or more")
        if any(not s for s in self.stop):
            raise ConfigError("a stop string is empty: it would end every text before it begins")
        _choice("audit", self.audit, get_args(AuditMode))
        _ = self.sampling  # raises for values out of range

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)


@dataclass(frozen=True)
class Config:
    """Everything sprinter generate can be told."""

    models: ModelConfig = field(default_factory=ModelConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)


PARTS: Mapping[str, type] = {"models": ModelConfig, "decoding": DecodingConfig, "generation": GenerationConfig}
T = TypeVar("T")


def make_config(file: Path | None, flags: Mapping[str, Any]) -> Config:
    """Flags over file over defaults; a flag that is None was not given.

    Raises ConfigError for a missing or malformed file, an unknown table or key, a wrong type or value.
    """
    tables = _read(file) if file is not None else {}
    unknown = [name for name in tables if name not in PARTS]
    if unknown:
        raise ConfigError(f"{file}: unknown table [{unknown[0]}]; known are {', '.join(PARTS)}")
    known = {f.name for part in PARTS.values() for f in fields(part)}
    strange = [name for name in flags if name not in known]
    if strange:
        raise ConfigError(f"unknown setting {strange[0]!r}; known are {', '.join(sorted(known))}")
    parts: dict[str, Any] = {}
    for name, part in PARTS.items():
        own = {f.name for f in fields(part)}
        given = {key: value for key, value in flags.items() if key in own and value is not None}
        parts[name] = from_mapping(part, {**tables.get(name, {}), **given}, str(file or "settings"))
    return Config(**parts)


def from_mapping(part: type[T], values: Mapping[str, Any], source: str) -> T:
    """Build a settings dataclass; ConfigError names an unknown key or a wrong type, and `source`."""
    known = {f.name: f for f in fields(part)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{source}: unknown key {key!r}; known are {', '.join(known)}")
    return part(**{key: _typed(str(known[key].type), value, f"{source}: {key}") for key, value in values.items()})


def survival_by(method: str, scorer: str) -> str:
    """'accept' where a method drafts past doubts that a score of something else than acceptance has raised, else ''."""
    return "accept" if method in ("lossless", "lookahead") and scorer in ("typical", "overlap") else ""


def _typed(annotation: str, value: Any, where: str) -> Any:
    if annotation.startswith("tuple"):
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise ConfigError(f"{where} must be a list of strings, not {value!r}")
    if "float" in annotation and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if "int" in annotation and isinstance(value, int) and not isinstance(value, bool):
        return value
    if "float" not in annotation and "int" not in annotation and isinstance(value, str):
        return value
    raise ConfigError(f"{where} must be {annotation.replace(' | None', '')}, not {value!r}")


def _read(file: Path) -> dict[str, Any]:
    try:
        loaded = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    strays = [name for name, table in loaded.items() if not isinstance(table, dict)]
    if strays:
        raise ConfigError(f"{file}: {strays[0]!r} stands outside a table; tables are {', '.join(PARTS)}")
    return loaded


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}, but must be one of {', '.join(allowed)}")
