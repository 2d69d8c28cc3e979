"""What would pay: every method at every setting of a grid, the fastest within a stated loss, and an interval on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sprinter.errors import ConfigError
from sprinter.theory.candidates import Candidate, Grid, Outcome, law_outcome, target_outcome, trace_outcome
from sprinter.theory.costs import Costs, WidthCost
from sprinter.theory.simulator import Rows
from sprinter.theory.token_law import TokenLaw, auc_of, binormal_law

_MARGIN = 0.05  # how far off alpha and AUC may be in the interval of a hypothetical plan


@dataclass(frozen=True, slots=True)
class Interval:
    """A range of the best setting's speed-up, and what it stands for."""

    low: float
    high: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The planner's answer; `best` is the target alone where nothing beats it."""

    best: Outcome
    interval: Interval | None  # of best.speedup; None where best is the target alone
    loss_interval: Interval | None  # of best.loss; only where rows were recorded
    target: Outcome
    exact: Outcome  # the best exact setting with a draft
    by_method: tuple[Outcome, ...]  # the fastest setting of each method within the loss
    frontier: tuple[Outcome, ...]  # fastest outcome for its loss or less, by rising loss
    max_tv: float
    alpha: float
    auc: float | None  # None where every token has the same label
    cost_ratio: float  # draft step / target forward of one token
    verdict: str


@dataclass(frozen=True, slots=True)
class Hypothetical:
    """A pair that need not exist, in units of one target forward of one token."""

    c: float  # draft step
    alpha: float  # acceptance rate
    auc: float  # of the verifier, on hard labels
    verifier: float = 0.0  # the verifier's word on one token
    growth: float = 0.0  # what each further token adds to a target forward

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("c", self.c, 0.0 < self.c < np.inf),
            ("alpha", self.alpha, 0.0 < self.alpha < 1.0),
            ("auc", self.auc, 0.5 <= self.auc < 1.0),
            ("verifier", self.verifier, 0.0 <= self.verifier < np.inf),
            ("growth", self.growth, 0.0 <= self.growth < np.inf),
        ):
            if not allowed:
                wanted = {"alpha": "strictly between 0 and 1", "auc": "at least 0.5 and below 1", "c": "above 0"}
                raise ConfigError(f"hypothetical {name} is {value}, but must be {wanted.get(name, '0 or more')}")

    @property
    def costs(self) -> Costs:
        """Costs with the target's forward of one token as the second."""
        return Costs(self.c, self.verifier, WidthCost((1, 2), (1.0, 1.0 + self.growth)))


def parse_hypothetical(text: str) -> Hypothetical:
    """Read `c=0.08,alpha=0.7,auc=0.85`; `verifier` and `growth` may follow.

    >>> parse_hypothetical("c=0.1,alpha=0.5,auc=0.9").alpha
    0.5
    """
    values = _numbers(text, ("c", "alpha", "auc", "verifier", "growth"), "hypothetical pair")
    missing = [key for key in ("c", "alpha", "auc") if key not in values]
    if missing:
        raise ConfigError(f"the hypothetical pair lacks {' and '.join(missing)}: try c=0.08,alpha=0.7,auc=0.85")
    return Hypothetical(**values)


def parse_costs(text: str) -> Costs:
    """Read `c=0.08`, `verifier` and `growth` as in `parse_hypothetical`, in target forwards of one token."""
    values = _numbers(text, ("c", "verifier", "growth"), "costs")
    if "c" not in values:
        raise ConfigError("the costs lack c, a draft step's share of a target forward: try c=0.08")
    return Hypothetical(alpha=0.5, auc=0.5, **values).costs


def _numbers(text: str, known: tuple[str, ...], subject: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for part in text.split(","):
        key, equals, number = (piece.strip() for piece in part.partition("="))
        if key not in known or not equals:
            raise ConfigError(f"unknown key {key!r} in the {subject}: give {', '.join(known)} as key=number")
        if key in values:
            raise ConfigError(f"the {subject} gives {key} twice")
        try:
            values[key] = float(number)
        except ValueError:
            raise ConfigError(f"{key} is {number!r} in the {subject}, which is not a number") from None
    return values


def plan_hypothetical(pair: Hypothetical, max_tv: float, grid: Grid | None = None) -> Plan:
    """Plan from the closed forms and a binormal, calibrated verifier (`binormal_law`); independence is assumed.

    The interval shows what becomes of the chosen setting if alpha and AUC are each off by up to 0.05.
    """
    grid = grid or Grid()
    law, costs = binormal_law(pair.alpha, pair.auc), pair.costs
    outcomes = [law_outcome(c, law, costs) for c in grid.candidates(law)]
    plan = _choose(outcomes, target_outcome(costs), costs, max_tv, (pair.alpha, pair.auc))
    if plan.best.candidate.setting is None:
        return plan
    speeds = []
    for alpha in (pair.alpha - _MARGIN, pair.alpha + _MARGIN):
        for auc in (pair.auc - _MARGIN, pair.auc + _MARGIN):
            other = binormal_law(float(np.clip(alpha, 0.001, 0.999)), float(np.clip(auc, 0.5, 0.999)))
            speeds.append(law_outcome(plan.best.candidate, other, costs).speedup)
    meaning = f"the same setting if alpha and AUC are each off by up to {_MARGIN}"
    return replace(plan, interval=Interval(min(speeds), max(speeds), meaning))


def plan_recorded(
    traces: Sequence[Rows], costs: Costs, max_tv: float, rng: np.random.Generator, grid: Grid | None = None
) -> Plan:
    """Plan from recorded (a, f) rows, one `Rows` per prompt, by exact replay: their dependence stays in.

    The intervals are the 2.5 % and 97.5 % points of 1000 bootstrap samples of prompts, for the chosen setting; they
    leave out the noise of the timings and the optimism of having chosen the best of a grid.
    """
    grid = grid or Grid()
    law = TokenLaw.from_rows(
        np.concatenate([rows.accept for rows in traces]), np.concatenate([rows.score for rows in traces])
    )
    outcomes = [trace_outcome(c, traces, costs) for c in grid.candidates(law)]
    target = trace_outcome(Candidate("target", None), traces, costs)
    plan = _choose(outcomes, target, costs, max_tv, (law.alpha, auc_of(law)))
    chosen = plan.best.per_prompt
    if chosen is None:
        return plan
    draws = rng.multinomial(len(traces), np.full(len(traces), 1.0 / len(traces)), size=1000)  # [1000, prompts]
    tokens, seconds, loss = draws @ chosen.tokens, draws @ chosen.seconds, draws @ chosen.loss
    meaning = f"95 % bootstrap over {len(traces)} prompts"
    speed = np.quantile(draws @ chosen.alone_s(costs) / seconds, [0.025, 0.975])
    lost = np.quantile(loss / tokens, [0.025, 0.975])
    interval = Interval(float(speed[0]), float(speed[1]), meaning)
    verdict = plan.verdict
    if interval.low <= 1.0:
        verdict += " With these few prompts that it beats the target alone is not certain."
    return replace(
        plan, interval=interval, loss_interval=Interval(float(lost[0]), float(lost[1]), meaning), verdict=verdict
    )


def pareto(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """The outcomes no other beats in speed at the same or less loss, by rising loss."""
    front: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda o: (o.loss, -o.speedup)):
        if not front or outcome.speedup > front[-1].speedup:
            front.append(outcome)
    return tuple(front)


def _choose(
    outcomes: Sequence[Outcome], target: Outcome, costs: Costs, max_tv: float, quality: tuple[float, float | None]
) -> Plan:
    if not 0.0 <= max_tv <= 1.0:
        raise ConfigError(f"max_tv is {max_tv}, but a mean total variation lies in [0, 1]")
    # The slack keeps a loss of exactly max_tv inside in spite of the last digit of a sum.
    allowed = [target, *(o for o in outcomes if o.loss <= max_tv + 1e-12)]
    best = max(allowed, key=lambda o: o.speedup)
    exact = max((o for o in outcomes if o.candidate.method == "exact"), key=lambda o: o.speedup)
    return Plan(
        best=best,
        interval=None,
        loss_interval=None,
        target=target,
        exact=exact,
        by_method=_best_of_each(allowed),
        frontier=pareto([target, *outcomes]),
        max_tv=max_tv,
        alpha=quality[0],
        auc=quality[1],
        cost_ratio=costs.ratio,
        verdict=_verdict(best, exact, max_tv),
    )


def _best_of_each(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    best: dict[str, Outcome] = {}
    for outcome in outcomes:
        method = outcome.candidate.method
        if method not in best or outcome.speedup > best[method].speedup:
            best[method] = outcome
    return tuple(best.values())


def _verdict(best: Outcome, exact: Outcome, max_tv: float) -> str:
    if best.candidate.setting is None:
        return f"Don't bother: within a loss of {max_tv:g} nothing is faster than the target alone."
    if best.loss <= 1e-12:
        return (
            f"Use {best.candidate.describe()}: {best.speedup:.2f}x the target alone, with the target's own law; "
            f"approximation buys nothing within a loss of {max_tv:g}."
        )
    return (
        f"Use {best.candidate.describe()}: {best.speedup:.2f}x the target alone and "
        f"{best.speedup / exact.speedup:.2f}x exact decoding at its best length, at a mean loss of {best.loss:.3f}."
    )
