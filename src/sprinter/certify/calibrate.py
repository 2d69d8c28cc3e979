"""Fixed-sequence testing: the fastest threshold whose loss is proven small, from one run for all losses and levels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sprinter.bounds import pvalue_named, upper_bound
from sprinter.certify.certificate import Claim, GridRow
from sprinter.certify.journal import Measurement, Measurements
from sprinter.certify.risks import risk_named
from sprinter.errors import ConfigError

# How often, in prompts, the p-values are looked at while a threshold is being measured; so many go in company.
_STEP = 10
# A level is given up at a threshold if it would fail even with the rest of the prompts this many standard errors
# better than those so far. Giving up can only lose a claim, never make a wrong one.
_HOPE_ERRORS = 3.0

Losses = Mapping[str, NDArray[np.float64]]  # per loss: one value a prompt, on the [0, 1] scale


@dataclass(frozen=True, slots=True)
class Aim:
    """A level of a loss that somebody would like to be certified."""

    loss: str
    epsilon: float  # on the loss's natural scale

    def __post_init__(self) -> None:
        risk_named(self.loss)
        if not 0.0 < self.epsilon < 1.0:
            raise ConfigError(f"the level of {self.loss} is {self.epsilon}, but must lie strictly between 0 and 1")

    @property
    def unit_epsilon(self) -> float:
        """The level on the [0, 1] scale of the bounds."""
        return risk_named(self.loss).unit(self.epsilon)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is fixed before the first prompt is decoded; the proof needs all of it to be.

    The betting p-value holds however a sample came to its end. So with it a threshold is left once each open aim is
    either proven there or out of reach, and only the thresholds that end up certified are measured on, up to
    `min_prompts`. Hoeffding-Bentkus needs the sample size fixed: it always takes `num_prompts`.
    """

    thresholds: tuple[float, ...]  # safest first
    aims: tuple[Aim, ...]
    num_prompts: int
    min_prompts: int
    alpha: float = 0.05
    bound: str = "betting"

    def __post_init__(self) -> None:
        pvalue_named(self.bound)
        if not self.thresholds or not all(a > b for a, b in itertools.pairwise(self.thresholds)):
            raise ConfigError("the thresholds must go from safe to fast: give one or more, each below the one before")
        if not all(map(math.isfinite, self.thresholds)):
            raise ConfigError("a threshold is not a finite number: exact decoding needs no certificate")
        if not self.aims or len(set(self.aims)) < len(self.aims):
            raise ConfigError("nothing to certify, or the same level twice: name at least one level, each once")
        if not 1 <= self.min_prompts <= self.num_prompts:
            raise ConfigError(
                f"min_prompts is {self.min_prompts}, but must be from 1 to {self.num_prompts} (num_prompts)"
            )
        if not 0.0 < self.alpha < 1.0:
            raise ConfigError(f"confidence is {1 - self.alpha:g}, but must lie strictly between 0 and 1")

    def pvalue(self, aim: Aim, losses: NDArray[np.float64]) -> float:
        """P-value of "the mean of this loss is above the aim's level"."""
        return pvalue_named(self.bound)(losses, aim.unit_epsilon, self.alpha, self.num_prompts)

    def prompts_needed(self, aim: Aim) -> int:
        """Prompts without any loss at all that it would take to certify the aim: with fewer it is out of reach."""
        unit = aim.unit_epsilon
        guess = math.ceil(math.log(1.0 / self.alpha) / -math.log1p(-unit))
        pvalue = pvalue_named(self.bound)
        while pvalue(np.zeros(guess), unit, self.alpha, guess) > self.alpha:
            guess += max(1, guess // 100)
        return guess


@dataclass(frozen=True)
class Progress:
    """Where a calibration stands at a threshold: shown while it runs."""

    plan: Plan
    threshold: float
    aims: Sequence[Aim]  # those still open
    losses: Losses

    @property
    def prompts_done(self) -> int:
        return len(next(iter(self.losses.values())))

    @cached_property
    def pvalues(self) -> Mapping[Aim, float]:
        return {aim: self.plan.pvalue(aim, self.losses[aim.loss]) for aim in self.aims}

    @property
    def uppers(self) -> Mapping[Aim, float]:
        """Upper bounds so far, on the losses' natural scale; found by bisection, so only computed when shown."""
        found = {name: _upper(self.plan, name, self.losses[name]) for name in {aim.loss for aim in self.aims}}
        return {aim: found[aim.loss] for aim in self.aims}

    @property
    def settled(self) -> bool:
        """Whether no further prompt could change which aims are proven at this threshold."""
        return self.plan.bound == "betting" and all(
            p <= self.plan.alpha or self._hopeless(aim) for aim, p in self.pvalues.items()
        )

    def _hopeless(self, aim: Aim) -> bool:
        losses = self.losses[aim.loss]
        error = float(losses.std()) / math.sqrt(len(losses))
        rest = np.full(self.plan.num_prompts - len(losses), max(0.0, float(losses.mean()) - _HOPE_ERRORS * error))
        return self.plan.pvalue(aim, np.concatenate([losses, rest])) > self.plan.alpha


# (threshold, prompts) -> (prompt, what was measured), as they are done
Measure = Callable[[float, Sequence[int]], Iterable[tuple[int, Measurement]]]
Report = Callable[[Progress], None]


def last_rejected(pvalues: Sequence[float], alpha: float) -> int | None:
    """Index of the last p-value, from the front, before one exceeds alpha; None if the first does.

    Fixed-sequence testing, Angelopoulos et al., arXiv:2110.01052: the chance of rejecting any true null is at most
    alpha. Taking the index after it, the first that was NOT rejected, gives no guarantee at all.
    """
    rejected = list(itertools.takewhile(lambda p: p <= alpha, pvalues))
    return len(rejected) - 1 if rejected else None


def fixed_sequence(plan: Plan, losses_at: Callable[[float, Sequence[Aim]], Losses]) -> list[Claim]:
    """Test every aim threshold by threshold, safest first, until each has failed once or the grid ends.

    `losses_at(threshold, open_aims)` is asked only for thresholds that some aim still reaches.
    """
    pvalues: dict[Aim, list[float]] = {aim: [] for aim in plan.aims}
    for threshold in plan.thresholds:
        reaching = [aim for aim, tried in pvalues.items() if all(p <= plan.alpha for p in tried)]
        within_reach = [aim for aim in reaching if plan.num_prompts >= plan.prompts_needed(aim)]
        if not within_reach:
            break
        losses = losses_at(threshold, within_reach)
        for aim in within_reach:
            pvalues[aim].append(plan.pvalue(aim, losses[aim.loss]))
    claims = []
    for aim, tried in pvalues.items():
        last = last_rejected(tried, plan.alpha)
        claims.append(Claim(aim.loss, aim.epsilon, None if last is None else plan.thresholds[last], tried))
    return claims


def calibrate(
    plan: Plan, measure: Measure, journal: Measurements, report: Report = lambda progress: None
) -> tuple[list[GridRow], list[Claim]]:
    """Run the plan: one on-policy decoding of each prompt at each threshold that is reached.

    `measure(threshold, prompts)` decodes prompts by number; what the journal already holds is not measured again.
    """
    measured: dict[float, list[Measurement]] = {}

    def losses_at(threshold: float, aims: Sequence[Aim]) -> Losses:
        rows = measured[threshold] = []
        for row in _measured(range(plan.num_prompts), threshold, measure, journal):
            rows.append(row)
            if len(rows) % _STEP == 0 or len(rows) == plan.num_prompts:
                now = Progress(plan, threshold, aims, _columns(rows))
                report(now)
                if now.settled:
                    break
        return _columns(rows)

    claims = fixed_sequence(plan, losses_at)
    for threshold, rows in measured.items():
        aims = [Aim(claim.loss, claim.epsilon) for claim in claims if claim.threshold == threshold]
        # What was proven stays proven: more prompts only tell better what the certified threshold does.
        missing = range(len(rows), plan.min_prompts) if aims else range(0)
        for row in _measured(missing, threshold, measure, journal):
            rows.append(row)
            if len(rows) % _STEP == 0:
                report(Progress(plan, threshold, aims, _columns(rows)))
    return [_grid_row(plan, threshold, rows) for threshold, rows in measured.items()], claims


def _measured(prompts: range, threshold: float, measure: Measure, journal: Measurements) -> Iterator[Measurement]:
    for start in range(prompts.start, prompts.stop, _STEP):
        block = range(start, min(start + _STEP, prompts.stop))
        known = {prompt: journal.get(threshold, prompt) for prompt in block}
        missing = [prompt for prompt, found in known.items() if found is None]
        for prompt, measured in measure(threshold, missing) if missing else ():
            journal.put(threshold, prompt, measured)
            known[prompt] = measured
        yield from (found for found in known.values() if found is not None)


def _columns(rows: Sequence[Measurement]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array([row.losses[name] for row in rows]) for name in rows[0].losses}


def _upper(plan: Plan, loss: str, losses: NDArray[np.float64]) -> float:
    return risk_named(loss).value(upper_bound(losses, plan.alpha, plan.bound, plan.num_prompts))


def _grid_row(plan: Plan, threshold: float, rows: Sequence[Measurement]) -> GridRow:
    columns = _columns(rows)
    return GridRow(
        threshold=threshold,
        num_prompts=len(rows),
        calls_per_token=sum(row.target_calls for row in rows) / max(1, sum(row.num_tokens for row in rows)),
        means={name: risk_named(name).value(float(losses.mean())) for name, losses in columns.items()},
        uppers={name: _upper(plan, name, losses) for name, losses in columns.items()},
    )
