"""What a guard is told, and what it tells."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from sprinter.certify.risks import risk_named
from sprinter.errors import ConfigError

Action = Literal["warn", "tighten", "exact"]
Standing = Literal["unproven", "within", "exceeded"]


@dataclass(frozen=True, slots=True)
class Watch:
    """What is promised, what may be done about it, and how soon.

    `thresholds` are the certified ones, safest first; the last is in use to begin with. While the promise holds, the
    guard acts without cause once in `mean_time` requests on average, or more rarely. After `loosen_after` requests at a
    safer threshold without an alarm the next faster one is tried again (0: never).
    """

    loss: str
    epsilon: float
    thresholds: tuple[float, ...]
    action: Action = "tighten"
    max_tokens: int = 64  # of a request, as certified; what lies behind them is not promised and not counted
    mean_time: int = 5_000  # requests
    loosen_after: int = 2_000  # requests
    alpha: float = 0.05  # of the bound that reports show
    setting: str = ""  # what else tells this stream from another: a fingerprint of the pair and the method

    def __post_init__(self) -> None:
        risk_named(self.loss)
        if self.loss not in ("tv", "atypical", "excess"):
            raise ConfigError(
                f"the guard cannot watch {self.loss!r}: only tv, atypical and excess are known token by token"
            )
        for name, value in (("epsilon", self.epsilon), ("alpha", self.alpha)):
            if not 0.0 < value < 1.0:
                raise ConfigError(f"{name} is {value}, but must lie strictly between 0 and 1")
        if self.action not in ("warn", "tighten", "exact"):
            raise ConfigError(f"unknown action {self.action!r}: choose warn, tighten or exact")
        if not self.thresholds or list(self.thresholds) != sorted(self.thresholds, reverse=True):
            raise ConfigError(
                "the guard needs the certified thresholds, safest first: there is none or one is misplaced"
            )
        for name, number, least in (
            ("max_tokens", self.max_tokens, 1),
            ("mean_time", self.mean_time, 2),
            ("loosen_after", self.loosen_after, 0),
        ):
            if number < least:
                raise ConfigError(f"{name} is {number}, but must be at least {least}")

    @property
    def low(self) -> float:
        """The least a token can lose."""
        return risk_named(self.loss).low

    @property
    def key(self) -> str:
        """One word for this watch; another promise or pair is another watch."""
        told = [self.setting, self.loss, self.epsilon, self.alpha, self.max_tokens, self.mean_time, self.loosen_after]
        return hashlib.sha256(json.dumps([*told, *self.thresholds]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Trip:
    """One time the guard acted."""

    requests: int  # at the threshold before, up to the alarm
    tokens_total: int
    mean: float  # loss per token over those requests
    evidence: float  # reached `mean_time`
    threshold_before: float
    threshold_after: float  # inf: exact decoding
    message: str


@dataclass(frozen=True, slots=True)
class GuardReport:
    """Where the stream stands after a request."""

    standing: Standing
    threshold: float  # to be used for the next request; inf: exact decoding
    requests: int  # at this threshold so far
    tokens_total: int
    mean: float  # loss per token at this threshold
    upper: float  # bound on that mean's expectation, at confidence 1 - alpha
    evidence: float  # against the promise; an alarm at `mean_time`
    trip: Trip | None  # what this request set off
