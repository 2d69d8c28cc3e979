"""Everything a user can set: which models, which method with its parts' settings, what to write."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from sprinter.core.records import Budget
from sprinter.core.sampling import Sampling
from sprinter.core.settings import PartSettings, choice, from_mapping, from_words, setting
from sprinter.drafters.copies import CopySettings
from sprinter.drafters.either import EitherSettings
from sprinter.drafters.graph import GraphSettings
from sprinter.drafters.hub import TreeSettings
from sprinter.drafters.layers import SkipSettings, SkipSiblingSettings
from sprinter.drafters.model import DraftSettings
from sprinter.drafters.siblings import SiblingSettings
from sprinter.errors import ConfigError
from sprinter.gates.fixed import FixedSettings
from sprinter.gates.scored import ScoredSettings
from sprinter.methods import Method, gate_names
from sprinter.registry import find, names
from sprinter.rules.rollback import RollbackSettings

_DRAFTERS: Final = ("model", "copies", "either", "hub", "graph", "siblings", "layers")
AuditMode = Literal["free", "close"]


@dataclass(frozen=True)
class ModelConfig:
    """Which models, computed how."""

    target: str = setting("default", "Target model: a folder, a .gguf file, a hub id, or 'default'.")
    draft: str = setting("default", "Draft model: a folder, a .gguf file, a hub id, or 'default'.")
    verifier: str = setting("default", "Verifier folder made by sprinter train, 'default', or 'none'.")
    backend: str = setting("auto", "What computes the models: fast, hf (transformers), or auto.")
    weights: str = setting("auto", "Number format: auto, float32, bfloat16, int8 or int4 (int8, int4: fast only).")
    device: str = setting("cpu", "Device: cpu or cuda.")

    def __post_init__(self) -> None:
        choice("backend", self.backend, ("auto", *names("models")))
        choice("weights", self.weights, ("auto", "float64", "float32", "float16", "bfloat16", "int8", "int4"))
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device is {self.device!r}, but must be cpu, cuda or cuda:N")


@dataclass(frozen=True)
class DecodingConfig(
    ScoredSettings, FixedSettings, RollbackSettings, EitherSettings, TreeSettings, GraphSettings, SkipSiblingSettings
):
    """How to decode: the method, and what its parts can be told. A setting the method would ignore is refused."""

    method: str = setting(
        "sprinter",
        "target, draft, exact, lossless, sprinter, lookahead, bild; llma, llma+exact, llma+sprinter (copies); spechub, "
        "rrs, rrsw (trees); gsd, gsd-relaxed (graphs); swift, swift+sprinter (the target without some of its blocks).",
    )
    drafter: str | None = setting(None, f"Draft by {', '.join(_DRAFTERS)} instead of the method's own.")
    gate: str | None = setting(
        None, "Ask fixed, confidence or verifier before the target, instead of the method's own."
    )
    rule: str | None = setting(None, "Test by exact, walk, hub or relaxed instead of the method's own.")
    options: tuple[str, ...] = setting((), "A setting of a part from another package, as name=value; several times.")

    def __post_init__(self) -> None:
        choice("method", self.method, names("methods"))
        for kind, name, known in self._parts():
            if name is not None:
                choice(kind, name, known)
        for part in _OURS:
            part.check(self)
        self._refuse_idle_settings()
        options = {f.name for part in self.way.settings() if part not in _OURS for f in fields(part)}
        for name in self._added():
            if name not in options:
                has = ", ".join(options) or "none"
                raise ConfigError(f"method {self.method!r} has no option {name!r}: it has {has}")

    def _refuse_idle_settings(self) -> None:
        """ConfigError for a setting its method would ignore."""
        own, obeyed = {f.name for part in _OURS for f in fields(part)} - {"scorer"}, self.way.obeys()
        for f in fields(self):
            if f.name in own - obeyed and getattr(self, f.name) != f.default:
                users = [name for name in names("methods") if f.name in find("methods", name).obeys()]
                raise ConfigError(
                    f"{f.name} does nothing with method {self.method!r}: it belongs to {', '.join(users)}"
                )

    @property
    def way(self) -> Method:
        """The method itself, with the parts chosen for it."""
        found: Method = find("methods", self.method)
        return found.with_parts(self.drafter, self.gate, self.rule, self.method, self.scorer)

    def _parts(self) -> tuple[tuple[str, str | None, tuple[str, ...]], ...]:
        return (
            ("drafter", self.drafter, names("drafters")),
            ("gate", self.gate, gate_names()),
            ("rule", self.rule, names("rules")),
        )

    def of(self, part: type[PartSettings]) -> PartSettings:
        """What a part is told: these settings, or for one of another package its own from `options`."""
        if isinstance(self, part):
            return self
        own, added = {f.name for f in fields(part)}, self._added()
        return from_words(part, {name: word for name, word in added.items() if name in own}, "options")

    def settled(self) -> Self:
        """These settings with what the method leaves nobody to choose."""
        told = copy(self)
        for name, value in self.way.settled.items():
            # Not by `replace`: a method may settle on what nobody could ask for, such as a draft of no tokens.
            object.__setattr__(told, name, value)
        return told

    def _added(self) -> dict[str, str]:
        split = [option.partition("=") for option in self.options]
        strays = [name for name, equals, _ in split if not equals]
        if strays:
            raise ConfigError(f"the option {strays[0]!r} has no value: write name=value")
        return {name: word for name, _, word in split}

    @property
    def drafts_past_doubt(self) -> bool:
        """Whether the method has a lookahead to choose."""
        return "lookahead" in self.way.obeys()

    @property
    def survival(self) -> str:
        """Whose word counts on whether an unvouched token will pass, where it is not the scorer's; else ""."""
        return survival_by(self.method, self.scorer)

    @property
    def uses_scorer(self) -> bool:
        """Whether the method's gate asks a scorer."""
        return "scorer" in self.way.obeys()

    @property
    def uses_verifier(self) -> bool:
        """Whether that scorer is a trained verifier."""
        return self.uses_scorer and self.reads_verifier


# Parts whose settings stand in DecodingConfig itself; PartSettings is what a part without settings has.
_OURS: Final = (
    ScoredSettings,
    FixedSettings,
    RollbackSettings,
    DraftSettings,
    CopySettings,
    EitherSettings,
    TreeSettings,
    GraphSettings,
    SkipSettings,
    SiblingSettings,
    SkipSiblingSettings,
)


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
    seed: int | None = setting(None, "Seed of all chance in a text; default: another for each, told in the result.")
    max_total_tv: float | None = setting(
        None, "Most total variation to the target that one whole text may have: a limit, not an estimate."
    )
    max_atypical_tokens: int | None = setting(
        None, "Most tokens of one text that stay on the verifier's word though the target finds them atypical."
    )
    audit: AuditMode = setting("free", "'close' adds a final target call so that no token stays unaudited.")

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}, but must be at least 1")
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, but must be 0 or more")
        if any(not s for s in self.stop):
            raise ConfigError("a stop string is empty: it would end every text before it begins")
        if any("\ud800" <= character <= "\udfff" for s in self.stop for character in s):
            raise ConfigError(
                "a stop string holds half a character (a lone surrogate), which no text can: leave it out"
            )
        for name in ("max_total_tv", "max_atypical_tokens"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name} is {value}, but must be 0 (test every token) or more")
        choice("audit", self.audit, get_args(AuditMode))
        _ = self.sampling  # raises for values out of range

    @property
    def budget(self) -> Budget:
        """The most that one text may lose."""
        limits = (self.max_total_tv, self.max_atypical_tokens)
        return Budget(*(math.inf if limit is None else float(limit) for limit in limits))

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


def make_config(file: Path | None, flags: Mapping[str, Any], also: Collection[str] = ()) -> Config:
    """Flags over file over defaults; a flag that is None was not given. `also`: names a caller knows besides.

    Raises ConfigError for a missing or malformed file, an unknown table or key, a wrong type or value.
    """
    tables = _read(file) if file is not None else {}
    unknown = [name for name in tables if name not in PARTS]
    if unknown:
        raise ConfigError(f"{file}: unknown table [{unknown[0]}]; known are {', '.join(PARTS)}")
    known = {f.name for part in PARTS.values() for f in fields(part)}
    strange = [name for name in flags if name not in known]
    if strange:
        raise ConfigError(f"unknown setting {strange[0]!r}; known are {', '.join(sorted({*known, *also}))}")
    parts: dict[str, Any] = {}
    for name, part in PARTS.items():
        own = {f.name for f in fields(part)}
        given = {key: value for key, value in flags.items() if key in own and value is not None}
        parts[name] = from_mapping(part, {**tables.get(name, {}), **given}, str(file or "settings"))
    return Config(**parts)


def survival_by(method: str, scorer: str) -> str:
    """'accept' where a method drafts past doubts that a score of something else than acceptance has raised, else ''."""
    past_doubt = "lookahead" in find("methods", method).obeys()
    return "accept" if past_doubt and scorer in ("typical", "overlap") else ""


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
