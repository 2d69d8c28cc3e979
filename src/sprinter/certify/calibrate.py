"""Fixed-sequence testing: the fastest threshold whose loss is proven small, from one run for all losses and levels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sprinter.bounds import pvalue_named, upper_bound
from sprinter.certify.certificate import Claim, GridRow
from sprinter.certify.journal import Journal, Measurement
from sprinter.certify.risks import risk_named
from sprinter.errors import ConfigError

# How often, in prompts, the p-values are looked at while a threshold is being measured.
_STEP = 10

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

    With the betting p-value a threshold is left early, from `min_prompts` on, once every open aim is rejected, and at
    any time once none can be any more. Hoeffding-Bentkus needs the sample size fixed: it always takes `num_prompts`.
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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a calibration stands: shown while it runs."""

    threshold: float
    prompts_done: int
    num_prompts: int
    pvalues: Mapping[Aim, float]  # of the aims still open
    uppers: Mapping[Aim, float]  # upper bounds so far, natural scale


Measure = Callable[[float, int], Measurement]
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
    plan: Plan, measure: Measure, journal: Journal, report: Report = lambda progress: None
) -> tuple[list[GridRow], list[Claim]]:
    """Run the plan: one on-policy decoding of each prompt at each threshold that is reached.

    `measure(threshold, prompt)` decodes prompt number `prompt`; what the journal already holds is not measured again.
    """
    grid: list[GridRow] = []

    def losses_at(threshold: float, aims: Sequence[Aim]) -> Losses:
        rows: list[Measurement] = []
        for row in _measured(plan, threshold, measure, journal):
            rows.append(row)
            if len(rows) % _STEP == 0 or len(rows) == plan.num_prompts:
                losses = _columns(rows)
                now = _progress(plan, threshold, aims, losses)
                report(now)
                if _settled(plan, now, losses):
                    break
        grid.append(_grid_row(plan, threshold, rows))
        return _columns(rows)

    claims = fixed_sequence(plan, losses_at)
    return grid, claims


def _measured(plan: Plan, threshold: float, measure: Measure, journal: Journal) -> Iterator[Measurement]:
    for prompt in range(plan.num_prompts):
        known = journal.get(threshold, prompt)
        if known is None:
            known = measure(threshold, prompt)
            journal.add(threshold, prompt, known)
        yield known


def _columns(rows: Sequence[Measurement]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array([row.losses[name] for row in rows]) for name in rows[0].losses}


def _progress(plan: Plan, threshold: float, aims: Sequence[Aim], losses: Losses) -> Progress:
    done = len(next(iter(losses.values())))
    uppers = {name: _upper(plan, name, losses[name]) for name in {aim.loss for aim in aims}}
    return Progress(
        threshold=threshold,
        prompts_done=done,
        num_prompts=plan.num_prompts,
        pvalues={aim: plan.pvalue(aim, losses[aim.loss]) for aim in aims},
        uppers={aim: uppers[aim.loss] for aim in aims},
    )


def _settled(plan: Plan, now: Progress, losses: Losses) -> bool:
    """Whether more prompts at this threshold would be wasted."""
    if plan.bound != "betting":
        return False
    rest = np.zeros(plan.num_prompts - now.prompts_done)

    def hopeless(aim: Aim) -> bool:
        return plan.pvalue(aim, np.concatenate([losses[aim.loss], rest])) > plan.alpha

    open_aims = [aim for aim, p in now.pvalues.items() if p > plan.alpha]
    if len(open_aims) < len(now.pvalues) and now.prompts_done < plan.min_prompts:
        return False
    return all(hopeless(aim) for aim in open_aims)


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
