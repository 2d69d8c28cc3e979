"""From a request's contract to settings that keep it; what cannot be kept is refused, never weakened."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sprinter.api import Sprinter
from sprinter.certify.choose import SHIPPED, Choice, Wish, find_certificates
from sprinter.certify.guard import Guard
from sprinter.config import Config, make_config
from sprinter.core.records import Generation
from sprinter.core.settings import choice
from sprinter.errors import ConfigError, SprinterError
from sprinter.methods import Method
from sprinter.registry import find
from sprinter.serve.requests import ChatRequest, CompletionRequest, Contract, ContractName

STRENGTH: Final[dict[str, int]] = {"best_effort": 0, "certified": 1, "exact": 2}
CONTRACTS: Final = tuple(STRENGTH)


@dataclass(frozen=True)
class Terms:
    """What the operator offers."""

    default: ContractName = "exact"
    floor: ContractName = "best_effort"  # weaker contracts are refused
    max_tv: float | None = None  # of a certified request that names no level
    max_atypical: float | None = 0.02
    confidence: float = 0.95
    certificates: Path | None = None  # None: the shipped ones
    guard: Path | None = None  # file of the guard's state; None: nothing is watched
    max_tokens: int = 512  # of a request that names no number

    def __post_init__(self) -> None:
        choice("default contract", self.default, CONTRACTS)
        choice("contract floor", self.floor, CONTRACTS)
        if STRENGTH[self.default] < STRENGTH[self.floor]:
            raise ConfigError(f"the default contract {self.default} is weaker than the floor {self.floor}: raise it")


@dataclass(frozen=True)
class Agreed:
    """How one request is decoded, and what it was promised."""

    config: Config
    contract: ContractName
    choice: Choice | None = None
    note: str | None = None  # what the guard did, where it did something

    @property
    def threshold(self) -> float:
        """The threshold it is decoded at; inf for exact decoding."""
        threshold = self.config.decoding.threshold
        return math.inf if threshold is None else threshold

    def told(self, made: Generation) -> dict[str, Any]:
        """The account of a finished text, as JSON types."""
        audit, counters = made.audit, made.counters
        threshold = made.threshold
        told: dict[str, Any] = {
            "contract": self.contract,
            "method": made.method,
            "threshold": threshold if threshold is not None and math.isfinite(threshold) else None,
            "certificate": None if self.choice is None else self.choice.told(),
            "seed": made.seed,
            "target_calls": counters.target_calls,
            "draft_steps": counters.draft_steps,
            "first_token_s": made.first_token_s,
            "seconds": made.seconds,
        }
        if audit is not None:
            told["audit"] = {
                name: getattr(audit, name)
                for name in (
                    "tokens_audited",
                    "tokens_unaudited",
                    "mean_tv",
                    "tv_upper",
                    "mean_atypical",
                    "atypical_upper",
                    "confidence",
                )
            }
        if self.note is not None:
            told["guard"] = self.note
        return told


@dataclass
class Contracts:
    """Agrees on contracts, and watches whether certified ones are kept."""

    sprinter: Sprinter
    terms: Terms
    _guards: dict[str, Guard] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def agree(self, asked: CompletionRequest | ChatRequest) -> Agreed:
        """The settings of a request. Raises ConfigError or CertificateError naming what stands in the way."""
        told = asked.sprinter
        contract: ContractName = told.contract or self.terms.default
        if STRENGTH[contract] < STRENGTH[self.terms.floor]:
            raise ConfigError(f"contract {contract!r} is weaker than this server's floor, {self.terms.floor!r}")
        _refuse_idle(told, contract)
        settings = self._settings(asked, contract)
        if contract != "certified":
            return Agreed(make_config(None, settings), contract)
        given = ["max_new_tokens", *(name for name in ("scorer",) if getattr(told, name) is not None)]
        chat = isinstance(asked, ChatRequest)
        config, found = self.sprinter.certified(make_config(None, settings), self._wish(told), given, chat)
        if found.caveat is not None:
            raise ConfigError(f"certified was asked for: {found.caveat}")
        return self._guarded(config, found)

    def levels(self) -> list[dict[str, Any]]:
        """What can be certified here: loss, level, method and length of each claim."""
        try:
            found = find_certificates(self.terms.certificates or SHIPPED)
        except SprinterError:
            return []
        return [
            {
                "loss": claim.loss,
                "level": claim.epsilon,
                "method": certificate.setting.method,
                "prompts": certificate.setting.prompts,
                "temperature": certificate.setting.sampling.get("temperature"),
                "confidence": certificate.confidence,
                "max_new_tokens": certificate.max_new_tokens,
            }
            for _, certificate in found
            for claim in certificate.claims
            if claim.threshold is not None
        ]

    def record(self, agreed: Agreed, audit: Any) -> Agreed:
        """Take in what a certified text really lost; with the guard's word where it acted."""
        if agreed.choice is None or self.terms.guard is None or math.isinf(agreed.choice.threshold):
            return agreed
        notes = []
        for loss in agreed.choice.levels:
            losses = {"tv": audit.tv_losses, "atypical": audit.atypical, "excess": audit.excess}[loss]
            report = self._guard(agreed.choice, loss).record(losses, agreed.threshold)
            if report.trip is not None:
                notes.append(report.trip.message)
        return replace(agreed, note="; ".join(notes)) if notes else agreed

    def close(self) -> None:
        """Close the guards' files."""
        with self._lock:
            for guard in self._guards.values():
                guard.close()
            self._guards.clear()

    def _settings(self, asked: CompletionRequest | ChatRequest, contract: ContractName) -> dict[str, Any]:
        told = asked.sprinter
        completion = asked.max_completion_tokens if isinstance(asked, ChatRequest) else None
        own = {
            "max_new_tokens": completion or asked.max_tokens or self.terms.max_tokens,
            "stop": asked.stops,
            "audit": "close" if contract == "certified" and self.terms.guard is not None else told.audit,
        }
        taken = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
        limits = {"max_total_tv": told.max_total_tv, "max_atypical_tokens": told.max_atypical_tokens}
        method = "exact" if contract == "exact" else told.method or "sprinter"
        return {
            **own,
            **{name: getattr(asked, name) for name in taken},
            **{name: value for name, value in limits.items() if value is not None},
            "method": method,
            **{name: value for name in ("scorer", "threshold") if (value := getattr(told, name)) is not None},
        }

    def _wish(self, told: Contract) -> Wish:
        named = told.max_tv is not None or told.max_atypical is not None
        terms = self.terms
        return Wish(
            max_tv=told.max_tv if named else terms.max_tv,
            max_atypical=told.max_atypical if named else terms.max_atypical,
            confidence=told.confidence or terms.confidence,
            certificate=terms.certificates,
        )

    def _guarded(self, config: Config, found: Choice) -> Agreed:
        """At the threshold the guards of this promise are at."""
        if self.terms.guard is None or math.isinf(found.threshold):
            return Agreed(config, "certified", found)
        # Asked anew each time: another server may have seen the promise break.
        safest = max(self._guard(found, loss).look().threshold for loss in found.levels)
        if safest <= found.threshold:
            return Agreed(config, "certified", found)
        now = "exactly" if math.isinf(safest) else f"at threshold {safest:g}"
        note = f"the promise did not hold on earlier requests, so this text was decoded {now}"
        return Agreed(found.at(safest, config), "certified", found, note)

    def _guard(self, found: Choice, loss: str) -> Guard:
        watch = found.watch(loss)
        with self._lock:
            guard = self._guards.get(watch.key)
            if guard is None:
                assert self.terms.guard is not None
                guard = self._guards[watch.key] = Guard(self.terms.guard, watch)
            return guard


def _refuse_idle(told: Contract, contract: ContractName) -> None:
    """ConfigError for what a contract would ignore."""
    of = {
        "max_tv": ("certified",),
        "max_atypical": ("certified",),
        "confidence": ("certified",),
        "method": ("certified", "best_effort"),
        "scorer": ("certified", "best_effort"),
        "threshold": ("best_effort",),
    }
    for name, owners in of.items():
        if getattr(told, name) is not None and contract not in owners:
            raise ConfigError(f"{name} does nothing with contract {contract!r}: it belongs to {' and '.join(owners)}")
    limits = [name for name in ("max_total_tv", "max_atypical_tokens") if getattr(told, name) is not None]
    if limits and contract == "exact":
        raise ConfigError(f"{limits[0]} does nothing with contract 'exact', which loses nothing")
    if told.method is not None:
        way: Method = find("methods", told.method)
        if "references" in way.obeys():
            raise ConfigError(f"method {told.method!r} copies from references, which a request cannot bring")
