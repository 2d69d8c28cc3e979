"""From a wish ("at most 2% atypical tokens") to the certificate that grants it, and the settings it speaks of.

The command line, Python and comparisons all go through `grant`, so they refuse and warn alike.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprinter.build import Pair
from sprinter.certify.asked import Asked, setting_of
from sprinter.certify.certificate import Certificate, Claim, Setting
from sprinter.certify.risks import Aim
from sprinter.certify.watch import Action, Watch
from sprinter.config import Config, DecodingConfig, survival_by
from sprinter.errors import CertificateError, ConfigError
from sprinter.native.library import standing

# Settings a certificate may choose where the user has not.
OPEN_SETTINGS = ("scorer", "lookahead", "max_draft")
SHIPPED = Path(__file__).parents[1] / "zoo" / "default" / "certificates"


@dataclass(frozen=True, slots=True)
class Wish:
    """How little may be lost, with which confidence, by which certificate."""

    max_tv: float | None = None
    max_atypical: float | None = None
    max_excess: float | None = None
    max_deficit: float | None = None
    max_repeated: float | None = None
    confidence: float = 0.95
    certificate: Path | str | None = None  # a file or a folder of them; None: the shipped ones

    def __post_init__(self) -> None:
        if self.certificate is not None and not self.levels:
            raise ConfigError("a certificate does nothing alone: ask for a level, max_tv or max_atypical")
        for loss, level in self.levels.items():
            Aim(loss, level)  # raises for a level out of range

    @property
    def levels(self) -> dict[str, float]:
        """The levels asked for by loss; empty where nothing is wished."""
        levels = {
            "tv": self.max_tv,
            "atypical": self.max_atypical,
            "excess": self.max_excess,
            "deficit": self.max_deficit,
            "repeated": self.max_repeated,
        }
        return {loss: level for loss, level in levels.items() if level is not None}


@dataclass(frozen=True, slots=True)
class Choice:
    """A certificate that grants a wish, and how to decode by it; `threshold` inf means exactly."""

    certificate: Certificate
    path: Path
    threshold: float
    levels: dict[str, float]
    confidence: float
    statements: tuple[str, ...]  # none where a caveat says that nothing is promised
    caveat: str | None  # why nothing is promised about what was asked for; None where something is

    def at(self, threshold: float, config: Config) -> Config:
        """`config` at another threshold, as a guard of this choice asks for it; inf decodes exactly."""
        made = dataclasses.replace(config, decoding=self.apply(config.decoding, threshold))
        if math.isinf(threshold):
            return made
        setting = self.certificate.setting
        atypical = setting.max_atypical_tokens
        generation = dataclasses.replace(
            config.generation,
            max_total_tv=setting.max_total_tv,
            max_atypical_tokens=None if atypical is None else int(atypical),
        )
        return dataclasses.replace(made, generation=generation)

    def watch(self, loss: str, action: Action = "tighten") -> Watch:
        """What a guard needs to watch one of the granted levels."""
        if loss not in self.levels or math.isinf(self.threshold):
            had = ", ".join(self.levels) if math.isfinite(self.threshold) else "exact decoding alone"
            raise ConfigError(f"there is no level of {loss!r} to watch: the certificate granted {had}")
        thresholds = tuple(self.certificate.certified_thresholds(self.levels))
        setting = json.dumps(dataclasses.asdict(self.certificate.setting), sort_keys=True)
        length = self.certificate.max_new_tokens
        return Watch(loss, self.levels[loss], thresholds, action, max_tokens=length, setting=setting)

    def told(self) -> dict[str, Any]:
        """The choice as JSON types."""
        return {
            "file": self.path.name,
            "confidence": self.confidence,
            "levels": self.levels,
            "max_new_tokens": self.certificate.max_new_tokens,
            "shortest": self.certificate.shortest,
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


def grant(wish: Wish, pair: Pair, config: DecodingConfig, asked: Asked, given: Collection[str] = ()) -> Choice:
    """The certificate that grants a wish for such texts. Loads the pair.

    Settings of OPEN_SETTINGS that are named in `given` or are not the default are the user's; the others are the
    certificate's to choose. Raises CertificateError, naming the mismatch, if no certificate grants the wish, and
    ConfigError for a wish that contradicts the settings.
    """
    for name in ("threshold", "budget"):
        if getattr(config, name) is not None:
            raise ConfigError(f"{name} contradicts a certified level, whose certificate sets the threshold: give one")
    insisted = {name for name in OPEN_SETTINGS if getattr(config, name) != getattr(DecodingConfig(), name)}
    found = find_certificates(Path(wish.certificate or SHIPPED).expanduser())
    setting = setting_of(pair, config, asked)
    return choose(found, setting, wish.levels, wish.confidence, insisted | set(given), asked.num_tokens)


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
    """The certificate that grants every wanted level of texts of `num_tokens` new tokens (0: of its own length).

    Several may fit. Which one speaks must not depend on the calibrations that made them, or their confidences would not
    stand: those that cover the texts go first, then the one of which a pilot on other prompts expected the fewest
    target calls. If that one proved nothing, the next may speak only where the wish leaves room for both being wrong;
    else decoding is exact. `given` names settings of OPEN_SETTINGS the user insists on. Raises CertificateError naming
    what stands in the way of the one that comes closest.
    """
    fitting: list[_Candidate] = []
    refusals: list[tuple[int, str]] = []
    for path, certificate in found:
        adapted = _adapted(setting, certificate, given)
        try:
            certificate.require_match(adapted)
            threshold = certificate.threshold_for(wanted, confidence)
        except CertificateError as error:
            refusals.append((len(certificate.setting.mismatches(adapted)), f"{path.name}: {error}"))
            continue
        claims = [certificate.claim_for(loss, epsilon) for loss, epsilon in wanted.items()]
        fitting.append(_Candidate(path, certificate, claims, threshold, _uncovered(certificate, setting, num_tokens)))
    if not fitting:
        closest = min(refusals)[1]
        why = f" (the compiled pass is {standing()})" if "certified fast-compiled" in closest else ""
        raise CertificateError(closest + why)
    fitting.sort(key=lambda candidate: candidate.rank)
    speaking = [fitting[0]]
    for candidate in fitting[1:]:
        if sum(one.alpha for one in speaking) + candidate.alpha <= 1 - confidence + 1e-9:
            speaking.append(candidate)
    chosen = next((one for one in speaking if math.isfinite(one.threshold)), speaking[0])
    return chosen.choice(dict(wanted), round(1 - sum(one.alpha for one in speaking), 12))


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: Path
    certificate: Certificate
    claims: list[Claim]
    threshold: float
    uncovered: str | None

    @property
    def alpha(self) -> float:
        return 1 - self.certificate.confidence

    @property
    def rank(self) -> tuple[bool, float, bool, str]:
        """By nothing that the calibration prompts have told."""
        expected = [math.inf if claim.pilot_calls is None else claim.pilot_calls for claim in self.claims]
        # A verifier's output that is trained for the loss asked for is likely to serve it best.
        apt = "accept" if self.claims[0].loss == "tv" else "typical"
        return self.uncovered is not None, max(expected), self.certificate.setting.scorer != apt, self.path.name

    def choice(self, levels: dict[str, float], confidence: float) -> Choice:
        # Exact decoding keeps every promise, of any text.
        caveat = self.uncovered if math.isfinite(self.threshold) else None
        told = () if caveat else tuple(self.certificate.statement(claim, confidence) for claim in self.claims)
        return Choice(self.certificate, self.path, self.threshold, levels, confidence, told, caveat)


def _adapted(setting: Setting, certificate: Certificate, given: Collection[str]) -> Setting:
    """`setting` with what the certificate may choose; chats and arithmetic are compared by `_uncovered`."""
    theirs = certificate.setting
    own: dict[str, Any] = {name: getattr(theirs, name) for name in OPEN_SETTINGS if name not in given}
    if setting.max_total_tv is None and setting.max_atypical_tokens is None:
        own |= {name: getattr(theirs, name) for name in ("max_total_tv", "max_atypical_tokens")}
    adapted = dataclasses.replace(setting, **own, prompts=theirs.prompts, arithmetic=theirs.arithmetic)
    # It follows from the scorer, which may be the certificate's by now.
    return dataclasses.replace(adapted, survival=survival_by(adapted.method, adapted.scorer))


def _uncovered(certificate: Certificate, setting: Setting, num_tokens: int) -> str | None:
    """Why the certificate says nothing of such texts though it was made for these parts; None where it does."""
    made = certificate.setting.prompts
    if made != setting.prompts:
        kinds = {"plain": "plain prompts, which texts go on from", "chat": "chats"}
        return f"The certificate was made for {kinds[made]}; about {kinds[setting.prompts]} it promises nothing."
    same = dataclasses.replace(certificate.setting, arithmetic=setting.arithmetic)
    if other := certificate.setting.mismatches(same):
        return (
            f"The certificate was made with another arithmetic, about this one it promises nothing: {'; '.join(other)}."
        )
    return certificate.caveat(num_tokens)
