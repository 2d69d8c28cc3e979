"""From a wish ("at most 2% atypical tokens") to the certificate that grants it, and the settings it speaks of.

The command line, Python and comparisons all go through `grant`, so they refuse and warn alike.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sprinter.build import Pair, settle
from sprinter.certify.certificate import Certificate, Setting
from sprinter.certify.guard import Action, Watch
from sprinter.config import Config, DecodingConfig, survival_by
from sprinter.core.sampling import Sampling
from sprinter.drafters.copies import PROMPT
from sprinter.errors import CertificateError, ConfigError
from sprinter.registry import find, names

# Settings a certificate may choose where the user has not.
OPEN_SETTINGS = ("scorer", "lookahead", "max_draft")
SHIPPED = Path(__file__).parents[1] / "zoo" / "default" / "certificates"


@dataclass(frozen=True, slots=True)
class Wish:
    """How little may be lost, with which confidence, by which certificate."""

    max_tv: float | None = None
    max_atypical: float | None = None
    confidence: float = 0.95
    certificate: Path | str | None = None  # a file or a folder of them; None: the shipped ones

    def __post_init__(self) -> None:
        if self.certificate is not None and not self.levels:
            raise ConfigError("a certificate does nothing alone: ask for a level, max_tv or max_atypical")

    @property
    def levels(self) -> dict[str, float]:
        """The levels asked for by loss; empty where nothing is wished."""
        levels = {"tv": self.max_tv, "atypical": self.max_atypical}
        return {loss: level for loss, level in levels.items() if level is not None}


@dataclass(frozen=True, slots=True)
class Choice:
    """A certificate that grants a wish, and how to decode by it; `threshold` inf means exactly."""

    certificate: Certificate
    path: Path
    threshold: float
    levels: dict[str, float]
    statements: tuple[str, ...]
    caveat: str | None  # what is asked for and not covered; None where all is

    def at(self, threshold: float, config: Config) -> Config:
        """`config` at another threshold, as a guard of this choice asks for it; inf decodes exactly."""
        return dataclasses.replace(config, decoding=self.apply(config.decoding, threshold))

    def watch(self, loss: str, action: Action = "tighten") -> Watch:
        """What a guard needs to watch one of the granted levels."""
        if loss not in self.levels or math.isinf(self.threshold):
            had = ", ".join(self.levels) if math.isfinite(self.threshold) else "exact decoding alone"
            raise ConfigError(f"there is no level of {loss!r} to watch: the certificate granted {had}")
        thresholds = tuple(self.certificate.certified_thresholds(self.levels))
        setting = json.dumps(dataclasses.asdict(self.certificate.setting), sort_keys=True)
        return Watch(loss, self.levels[loss], thresholds, action, setting=setting)

    def told(self) -> dict[str, Any]:
        """The choice as JSON types."""
        return {
            "file": self.path.name,
            "confidence": self.certificate.confidence,
            "levels": self.levels,
            "max_new_tokens": self.certificate.max_new_tokens,
            "threshold": self.threshold if math.isfinite(self.threshold) else None,
            "statements": list(self.statements),
            "caveat": self.caveat,
        }

    def apply(self, config: DecodingConfig, threshold: float | None = None) -> DecodingConfig:
        """`config` with what the certificate prescribes; `threshold` as a guard asks for it, else the chosen one."""
        threshold = self.threshold if threshold is None else threshold
        if math.isinf(threshold):
            return DecodingConfig(method="exact", draft_chunk=config.draft_chunk)
        setting = self.certificate.setting
        prescribed: dict[str, Any] = {
            "scorer": setting.scorer,
            "threshold": threshold,
            "lookahead": setting.lookahead if setting.method == "lookahead" else None,
            "max_draft": setting.max_draft,
        }
        return dataclasses.replace(config, **prescribed)


def grant(
    wish: Wish, pair: Pair, config: DecodingConfig, sampling: Sampling, num_tokens: int, given: Collection[str] = ()
) -> Choice:
    """The certificate that grants a wish for texts of up to `num_tokens` new tokens. Loads the pair.

    Settings of OPEN_SETTINGS that are named in `given` or are not the default are the user's; the others are the
    certificate's to choose. Raises CertificateError, naming the mismatch, if no certificate grants the wish, and
    ConfigError for a wish that contradicts the settings.
    """
    for name in ("threshold", "budget"):
        if getattr(config, name) is not None:
            raise ConfigError(f"{name} contradicts a certified level, whose certificate sets the threshold: give one")
    insisted = {name for name in OPEN_SETTINGS if getattr(config, name) != getattr(DecodingConfig(), name)}
    found = find_certificates(Path(wish.certificate or SHIPPED).expanduser())
    setting = setting_of(pair, config, sampling)
    return choose(found, setting, wish.levels, wish.confidence, insisted | set(given), num_tokens)


def setting_of(pair: Pair, config: DecodingConfig, sampling: Sampling) -> Setting:
    """What a certificate made or used with these settings depends on. Loads the pair."""
    way, told = config.way, config.settled()
    if "threshold" not in way.obeys() or not find("rules", way.rule).exact:
        certified = [name for name in names("methods") if "threshold" in find("methods", name).obeys()]
        raise ConfigError(
            f"method {config.method!r} has nothing to certify: certificates are of thresholds, as in "
            f"{', '.join(certified)}"
        )
    if config.budget is not None:
        raise ConfigError("a budget moves the threshold from token to token, so there is none to certify: leave it out")
    target, draft = pair.target.info, pair.draft.info if way.runs_draft else None
    config = settle(pair, config) if way.runs_draft else config
    return Setting(
        target=target.fingerprint,
        target_backend=target.backend,
        target_weights=target.weights,
        draft="none" if draft is None else draft.fingerprint,
        draft_backend="none" if draft is None else draft.backend,
        draft_weights="none" if draft is None else draft.weights,
        verifier=pair.verifier(told.scorer).fingerprint if told.reads_verifier else "none",
        scorer=told.scorer,
        method=config.method,
        preset=config.preset,
        max_draft=config.draft_cap or 0,
        lookahead=1.0 if config.lookahead is None else config.lookahead,
        sampling=_plain(sampling),
        survival=config.survival,
        drafted=_drafted(config),
    )


def _drafted(config: DecodingConfig) -> str:
    """Who drafts by which settings, and what tests the rest; "" for the draft model tested by rejection."""
    way, words = config.way, list[str]()
    if (way.drafter, way.rule) == ("model", "exact"):
        return ""
    told = config.of(find("drafters", str(way.drafter)).Settings)
    for name in sorted(find("drafters", str(way.drafter)).Settings.__dataclass_fields__):
        value = getattr(told, name)
        if name == "references":
            value = [word if word == PROMPT else sha256(word.encode()).hexdigest()[:12] for word in value]
        words.append(f"{name} {value}")
    return f"{way.drafter} by {way.rule}: {', '.join(words)}"


def _plain(sampling: Sampling) -> dict[str, float | int | list[int]]:
    values = {name: getattr(sampling, name) for name in Sampling.__slots__}
    if sampling.greedy:
        # The rest changes nothing once only the most probable token is left; a penalty or a ban does.
        values |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def find_certificates(place: Path) -> list[tuple[Path, Certificate]]:
    """The certificate in a file, or all in a folder; CertificateError if there is none or one is damaged."""
    paths = sorted(place.glob("*.json")) if place.is_dir() else [place]
    if not paths:
        raise CertificateError(
            f"no certificates in {place}: make one with `sprinter calibrate`, then --certificate FILE"
        )
    return [(path, Certificate.load(path)) for path in paths]


def choose(
    found: Sequence[tuple[Path, Certificate]],
    setting: Setting,
    wanted: Mapping[str, float],
    confidence: float,
    given: Collection[str] = (),
    num_tokens: int = 0,
) -> Choice:
    """Of the certificates that fit and grant every wanted level, the one that calls the target least.

    One about texts of `num_tokens` new tokens or more goes before any about shorter ones, exact decoding comes last.
    `given` names settings of OPEN_SETTINGS the user insists on. Raises CertificateError naming what stands in the way
    of the one that comes closest.
    """
    fitting: list[tuple[bool, bool, float, Choice]] = []
    refusals: list[tuple[int, str]] = []
    for path, certificate in found:
        own = {name: getattr(certificate.setting, name) for name in OPEN_SETTINGS if name not in given}
        adapted = dataclasses.replace(setting, **own)
        # It follows from the scorer, which may be the certificate's by now.
        adapted = dataclasses.replace(adapted, survival=survival_by(adapted.method, adapted.scorer))
        try:
            certificate.require_match(adapted)
            threshold = certificate.threshold_for(wanted, confidence)
        except CertificateError as error:
            refusals.append((len(certificate.setting.mismatches(adapted)), f"{path.name}: {error}"))
            continue
        # Exact decoding keeps every promise at any length.
        caveat = certificate.caveat(num_tokens) if math.isfinite(threshold) else None
        claims = [certificate.claim_for(loss, epsilon) for loss, epsilon in wanted.items()]
        calls = [row.calls_per_token for row in certificate.grid if row.threshold == threshold]
        statements = tuple(certificate.statement(claim) for claim in claims)
        choice = Choice(certificate, path, threshold, dict(wanted), statements, caveat)
        fitting.append((math.isinf(threshold), caveat is not None, calls[0] if calls else math.inf, choice))
    if not fitting:
        raise CertificateError(min(refusals)[1])
    return min(fitting, key=lambda ranked: ranked[:3])[3]
