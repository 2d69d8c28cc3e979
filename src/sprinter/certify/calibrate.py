"""Fixed-sequence testing: the fastest threshold whose loss is proven small, from one run for all losses and levels."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from sprinter.bounds import betting_pvalues, pvalue_named
from sprinter.certify.certificate import Claim, GridRow
from sprinter.certify.journal import Measurement, Measurements
from sprinter.certify.risks import SHORT, Aim, Frame
from sprinter.certify.sample import Sample
from sprinter.errors import ConfigError

# How often, in prompts, the p-values are looked at while a threshold is being measured; so many go in company.
_STEP = 10
_MOST_PROMPTS = 100_000
_BISECTIONS = 24  # of an upper bound: leaves 1e-7 of the range

Losses = Mapping[str, Sample]


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
    frame: Frame = SHORT

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

    def pvalue(self, aim: Aim, losses: Sample) -> float:
        """P-value of "at some of the lengths the mean of this loss is above the aim's level".

        It is the largest of the lengths' own: to reject "some of them" each has to be rejected, and no alpha is spent
        on their number (an intersection-union test).
        """
        values, levels = losses.units(aim.epsilon)
        if self.bound == "betting":
            return float(betting_pvalues(values, levels, self.alpha, self.num_prompts).max(initial=0.0))
        pvalue = pvalue_named(self.bound)
        columns = zip(values.T, levels.tolist(), strict=True)
        return max((pvalue(column, level, self.alpha, self.num_prompts) for column, level in columns), default=0.0)

    def prompts_needed(self, aim: Aim) -> int:
        """Prompts without any loss at all that it would take to certify the aim: with fewer it is out of reach."""
        return _prompts_needed(self, aim)


@lru_cache
def _prompts_needed(plan: Plan, aim: Aim) -> int:
    least = float(Sample.clean(aim.loss, 1, plan.frame).units(aim.epsilon)[1].min(initial=0.999))
    guess = max(1, math.ceil(math.log(1.0 / plan.alpha) / -math.log1p(-least)))
    while (
        dataclasses.replace(plan, num_prompts=guess, min_prompts=1).pvalue(
            aim, Sample.clean(aim.loss, guess, plan.frame)
        )
        > plan.alpha
        and guess < _MOST_PROMPTS
    ):
        guess += max(1, guess // 50)
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
        return self.plan.pvalue(aim, losses.extended(self.plan.num_prompts - len(losses))) > self.plan.alpha


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

    `measure(threshold, prompts)` decodes prompts by number; what the journal already holds is not measured again. The
    numbers must stand in RANDOM order, each prompt once: in the order of a source that drifts, claims would be wrong.
    """
    measured: dict[float, list[Measurement]] = {}

    def losses_at(threshold: float, aims: Sequence[Aim]) -> Losses:
        rows = measured[threshold] = []
        for row in _measured(range(plan.num_prompts), threshold, measure, journal):
            rows.append(row)
            if len(rows) % _STEP == 0 or len(rows) == plan.num_prompts:
                now = Progress(plan, threshold, aims, _samples(plan, rows, aims))
                report(now)
                if now.settled:
                    break
        return _samples(plan, rows, aims)

    claims = fixed_sequence(plan, losses_at)
    for threshold, rows in measured.items():
        aims = [Aim(claim.loss, claim.epsilon) for claim in claims if claim.threshold == threshold]
        # What was proven stays proven: more prompts only tell better what the certified threshold does.
        missing = range(len(rows), plan.min_prompts) if aims else range(0)
        for row in _measured(missing, threshold, measure, journal):
            rows.append(row)
            if len(rows) % _STEP == 0:
                report(Progress(plan, threshold, aims, _samples(plan, rows, aims)))
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


def _samples(plan: Plan, rows: Sequence[Measurement], aims: Sequence[Aim]) -> dict[str, Sample]:
    return {name: Sample.of(name, rows, plan.frame) for name in {aim.loss for aim in aims}}


def _upper(plan: Plan, loss: str, losses: Sample) -> float:
    """The smallest level found that this sample rejects for all lengths at once; the loss's largest value if none."""
    kept, rejected = max(losses.risk.low, losses.worst_mean), losses.risk.high
    for _ in range(_BISECTIONS):
        middle = 0.5 * (kept + rejected)
        if middle > 0.0 and plan.pvalue(Aim(loss, middle), losses) <= plan.alpha:
            rejected = middle
        else:
            kept = middle
    return rejected


def _grid_row(plan: Plan, threshold: float, rows: Sequence[Measurement]) -> GridRow:
    samples = {name: Sample.of(name, rows, plan.frame) for name in rows[0].losses}
    return GridRow(
        threshold=threshold,
        num_prompts=len(rows),
        calls_per_token=sum(row.target_calls for row in rows) / max(1, sum(row.num_tokens for row in rows)),
        means={name: losses.mean for name, losses in samples.items()},
        uppers={name: _upper(plan, name, losses) for name, losses in samples.items()},
    )
