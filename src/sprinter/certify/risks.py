"""Losses that can be certified: what a text gives to each, and within which range that lies for sure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sprinter.core.records import NO_BUDGET, Budget, Generation
from sprinter.core.sampling import Sampling
from sprinter.errors import ConfigError, DataError
from sprinter.observers.audit import DEFICIT_CLIP, Audit, repeated_share
from sprinter.rouge import overlap

SHORTEST = 8  # tokens; claims are about texts of this length and every longer one up to the limit


@dataclass(frozen=True, slots=True)
class Risk:
    """A loss and the range of its values; `by_token`: it is a mean over tokens, else one value a text."""

    name: str
    says: str  # completes "..., <says> is at most 0.05"
    low: float = 0.0
    high: float = 1.0
    by_token: bool = True


RISKS: Mapping[str, Risk] = {
    risk.name: risk
    for risk in (
        Risk("tv", "mean total variation per token"),
        Risk("atypical", "the share of tokens the target finds atypical"),
        Risk("excess", "the share of atypical tokens beyond the target's own", low=-1.0),
        Risk(
            "deficit",
            "the mean log-likelihood (nats, by the target) by which a token falls behind the target's own",
            -DEFICIT_CLIP,
            DEFICIT_CLIP,
        ),
        Risk("repeated", "the mean share of repeated 4-grams beyond the target's own text", -1.0, by_token=False),
        Risk("rouge", "mean 1 - ROUGE-L to the reference", by_token=False),
    )
}


def risk_named(name: str) -> Risk:
    """The risk called `name`, or ConfigError listing those there are."""
    if name not in RISKS:
        raise ConfigError(f"unknown loss {name!r}: choose one of {', '.join(RISKS)}")
    return RISKS[name]


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


@dataclass(frozen=True, slots=True)
class Frame:
    """How long the texts are, how they are sampled and what each is held to: what bounds a loss for sure."""

    max_new_tokens: int = 1
    shortest: int = SHORTEST
    plainly_greedy: bool = False  # neither a penalty nor a ban: the target itself is never atypical
    budget: Budget = NO_BUDGET

    @classmethod
    def of(cls, max_new_tokens: int, sampling: Sampling, budget: Budget, shortest: int = SHORTEST) -> Frame:
        """The frame of texts written with these settings."""
        plain = sampling.greedy and sampling.repetition_penalty == 1 and not sampling.banned
        return cls(max_new_tokens, shortest, plain, budget)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths claims are about, all at once."""
        return tuple(range(min(self.shortest, self.max_new_tokens), self.max_new_tokens + 1))

    def spread(self, risk: Risk, length: int) -> tuple[float, float]:
        """(least, most) of a text's sum over its first `length` tokens, divided by `length`."""
        tv, atypical = (min(1.0, limit / length) for limit in (self.budget.total_tv, self.budget.atypical))
        greedy = self.plainly_greedy
        return {
            "tv": (0.0, tv),
            # Where the target is never atypical, only vouched tokens are, and each costs a whole unit of variation.
            "atypical": (0.0, min(tv, atypical) if greedy else 1.0),
            "excess": (0.0 if greedy else -tv, min(tv, atypical)),
            "deficit": (0.0 if greedy else risk.low, risk.high),
        }.get(risk.name, (risk.low, risk.high))


SHORT = Frame()  # texts of one token


def losses_of(
    generation: Generation, audit: Audit, reference: str | None = None, own: Sequence[int] | None = None
) -> dict[str, list[float]]:
    """Every loss of one generation: a value a token, or a single one of those that are about texts.

    `rouge` needs a `reference`, `repeated` the target's `own` text. The generation must have been closed by an audit
    call: the tokens the target never saw are the ones a verifier was sure of, so leaving them out would flatter it.
    Raises DataError otherwise, CapabilityError where `rouge` is wanted and rouge-score is missing.
    """
    count = generation.num_tokens
    if len(audit.tokens) < count:
        raise DataError(
            f"{count - len(audit.tokens)} tokens were never audited: close each generation with an audit call"
        )
    losses = {
        "tv": audit.tv_losses[:count],
        "atypical": [float(atypical) for atypical in audit.atypical[:count]],
        "excess": audit.excess[:count],
        "deficit": audit.deficits[:count],
    }
    if any(map(math.isnan, losses["excess"])):
        del losses["excess"]
    if own is not None:
        losses["repeated"] = [repeated_share(audit.tokens[:count]) - repeated_share(own)]
    if reference is not None:
        losses["rouge"] = [1.0 - overlap(generation.text, reference)["rougeL"]]
    return losses
