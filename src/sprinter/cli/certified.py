"""A wish for quality on the command line: its certificate, and what the certificate prescribes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sprinter.config import Config, DecodingConfig
from sprinter.errors import ConfigError

if TYPE_CHECKING:
    from sprinter.build import Pair


@dataclass(frozen=True)
class Wish:
    """The levels asked for, with which confidence, and where the certificates are (None: the shipped ones)."""

    max_tv: float | None
    max_atypical: float | None
    confidence: float
    place: Path | None

    @property
    def levels(self) -> dict[str, float]:
        levels = {"tv": self.max_tv, "atypical": self.max_atypical}
        return {loss: level for loss, level in levels.items() if level is not None}


def grant(wish: Wish, settings: Config, pair: Pair) -> tuple[Config, dict[str, Any] | None]:
    """Settings that keep the wish, and what to tell about it; the same settings and None without a wish.

    Raises CertificateError, naming the mismatch, if no certificate grants it; ConfigError for a wish that contradicts
    other options.
    """
    if not wish.levels:
        if wish.place is not None:
            raise ConfigError("--certificate does nothing alone: add --max-tv or --max-atypical")
        return settings, None
    if settings.decoding.threshold is not None:
        raise ConfigError("--threshold contradicts --max-tv and --max-atypical: the certificate sets the threshold")
    from sprinter.certify.choose import OPEN_SETTINGS, SHIPPED, choose, find_certificates, setting_of

    given = [name for name in OPEN_SETTINGS if getattr(settings.decoding, name) != getattr(DecodingConfig(), name)]
    found = find_certificates(wish.place or SHIPPED)
    setting = setting_of(pair, settings.decoding, settings.generation.sampling)
    choice = choose(found, setting, wish.levels, wish.confidence, given)
    for statement in choice.statements:
        typer.echo(statement, err=True)
    told = {
        "file": choice.path.name,
        "confidence": choice.certificate.confidence,
        "levels": wish.levels,
        "threshold": choice.threshold if math.isfinite(choice.threshold) else None,
        "statements": list(choice.statements),
    }
    return dataclasses.replace(settings, decoding=choice.apply(settings.decoding)), told
