"""From a wish ("at most 2% atypical tokens") to the certificate that grants it, and the settings it speaks of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprinter.build import Pair
from sprinter.certify.certificate import Certificate, Setting
from sprinter.config import DEFAULT_LOOKAHEAD, DecodingConfig
from sprinter.errors import CertificateError, ConfigError
from sprinter.sampling import Sampling

CERTIFIED_METHODS = ("sprinter", "lookahead")
# Settings a certificate may choose where the user has not.
OPEN_SETTINGS = ("scorer", "lookahead", "max_draft")
SHIPPED = Path(__file__).parents[1] / "zoo" / "default" / "certificates"


@dataclass(frozen=True, slots=True)
class Choice:
    """A certificate that grants a wish, and how to decode by it; `threshold` inf means exactly."""

    certificate: Certificate
    path: Path
    threshold: float
    statements: tuple[str, ...]

    def apply(self, config: DecodingConfig) -> DecodingConfig:
        """`config` with what the certificate prescribes."""
        if math.isinf(self.threshold):
            return DecodingConfig(method="exact")
        setting = self.certificate.setting
        prescribed: dict[str, Any] = {
            "scorer": setting.scorer,
            "threshold": self.threshold,
            "lookahead": setting.lookahead if setting.method == "lookahead" else None,
            "max_draft": setting.max_draft,
        }
        return dataclasses.replace(config, **prescribed)


def setting_of(pair: Pair, config: DecodingConfig, sampling: Sampling) -> Setting:
    """What a certificate made or used with these settings depends on. Loads the pair."""
    if config.method not in CERTIFIED_METHODS:
        raise ConfigError(
            f"method {config.method!r} has nothing to certify: certificates are for {' and '.join(CERTIFIED_METHODS)}"
        )
    target, draft = pair.target.info, pair.draft.info
    ahead = DEFAULT_LOOKAHEAD if config.lookahead is None else config.lookahead
    return Setting(
        target=target.fingerprint,
        target_backend=target.backend,
        target_weights=target.weights,
        draft=draft.fingerprint,
        draft_backend=draft.backend,
        draft_weights=draft.weights,
        verifier=pair.verifier(config.scorer).fingerprint if config.uses_verifier else "none",
        scorer=config.scorer,
        method=config.method,
        preset=config.preset,
        max_draft=config.draft_cap or 0,
        lookahead=1.0 if config.method == "sprinter" else ahead,
        sampling=_plain(sampling),
    )


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
) -> Choice:
    """Of the certificates that fit and grant every wanted level, the one that calls the target least.

    `given` names settings of OPEN_SETTINGS the user insists on; the others are the certificate's to choose. Raises
    CertificateError naming what stands in the way of the one that comes closest.
    """
    fitting: list[tuple[float, Choice]] = []
    refusals: list[tuple[int, str]] = []
    for path, certificate in found:
        own = {name: getattr(certificate.setting, name) for name in OPEN_SETTINGS if name not in given}
        adapted = dataclasses.replace(setting, **own)
        try:
            certificate.require_match(adapted)
            threshold = certificate.threshold_for(wanted, confidence)
        except CertificateError as error:
            refusals.append((len(certificate.setting.mismatches(adapted)), f"{path.name}: {error}"))
            continue
        claims = [certificate.claim_for(loss, epsilon) for loss, epsilon in wanted.items()]
        calls = [row.calls_per_token for row in certificate.grid if row.threshold == threshold]
        choice = Choice(certificate, path, threshold, tuple(certificate.statement(claim) for claim in claims))
        fitting.append((calls[0] if calls else math.inf, choice))
    if not fitting:
        raise CertificateError(min(refusals)[1])
    return min(fitting, key=lambda pair: pair[0])[1]
