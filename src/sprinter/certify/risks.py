"""Losses of one prompt, each in [0, 1], so that one machinery bounds the mean of any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sprinter.core.records import Generation
from sprinter.errors import ConfigError, DataError
from sprinter.rouge import overlap


@dataclass(frozen=True, slots=True)
class Risk:
    """A loss that can be certified, and how its values map onto [0, 1].

    unit = (value - low) / (1 - low); `low` is 0 except for the excess, which may be negative.
    """

    name: str
    says: str  # completes "..., <says> is at most 0.05"
    low: float = 0.0

    def unit(self, value: float) -> float:
        """A value, or a level, of this risk on the [0, 1] scale of the bounds."""
        return (value - self.low) / (1.0 - self.low)

    def value(self, unit: float) -> float:
        """The inverse of `unit`."""
        return self.low + unit * (1.0 - self.low)


RISKS: Mapping[str, Risk] = {
    risk.name: risk
    for risk in (
        Risk("tv", "mean total variation per token"),
        Risk("atypical", "the mean share of tokens the target finds atypical"),
        # The target's own rate is estimated per position and taken off, so a prompt's excess lies in [-1, 1]. Half the
        # scale is spent on negative values: certifying it takes about twice the prompts.
        Risk("excess", "the mean share of atypical tokens beyond the target's own", low=-1.0),
        Risk("rouge", "mean 1 - ROUGE-L to the reference"),
    )
}


def risk_named(name: str) -> Risk:
    """The risk called `name`, or ConfigError listing those there are."""
    if name not in RISKS:
        raise ConfigError(f"unknown loss {name!r}: choose one of {', '.join(RISKS)}")
    return RISKS[name]


def losses_of(generation: Generation, reference: str | None = None) -> dict[str, float]:
    """Every loss of one generation on the [0, 1] scale; `rouge` only where there is a `reference`.

    The generation must have been closed by an audit call: the tokens the target never saw are the ones a verifier
    was sure of, so leaving them out would flatter it. Raises DataError otherwise, CapabilityError where `rouge` is
    wanted and rouge-score is missing.
    """
    report = generation.audit
    if report is None:
        raise DataError("the generation was not audited: calibrate with the audit on")
    if report.tokens_unaudited:
        raise DataError(
            f"{report.tokens_unaudited} tokens were never audited: close each generation with an audit call"
        )
    # An empty answer deviated nowhere.
    values = {
        "tv": report.mean_tv or 0.0,
        "atypical": report.mean_atypical or 0.0,
        "excess": (report.mean_atypical or 0.0) - (report.own_atypical or 0.0),
    }
    if reference is not None:
        values["rouge"] = 1.0 - overlap(generation.text, reference)["rougeL"]
    # Rounding may leave a mean of ones a hair above 1.
    return {name: min(1.0, max(0.0, RISKS[name].unit(value))) for name, value in values.items()}
