"""A level of a loss that somebody would like to be certified."""

from __future__ import annotations

from dataclasses import dataclass

from sprinter.certify.risks import risk_named
from sprinter.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Aim:
    """A level of a loss that somebody would like to be certified."""

    loss: str
    epsilon: float  # on the loss's natural scale

    def __post_init__(self) -> None:
        most = risk_named(self.loss).high
        if not 0.0 < self.epsilon < most:
            percent = f": {self.epsilon:g}% is {self.epsilon / 100:g}" if most == 1 <= self.epsilon <= 100 else ""
            raise ConfigError(
                f"the level of {self.loss} is {self.epsilon:g}, but must lie strictly between 0 and {most:g}{percent}"
            )
