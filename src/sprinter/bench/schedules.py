"""What a round's shape adds to the frontier: the risk budget, lookahead, predicted time, all by exact replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sprinter.bench.frontier import ATYPICAL_LEVELS, TV_LEVELS, Sweep, Traces, frontier, traces_of
from sprinter.gates.budget import RiskBudget
from sprinter.gates.verifier import Verifier
from sprinter.learn.rows import Rows as Collected
from sprinter.theory.candidates import Candidate, Method, Outcome, trace_outcome
from sprinter.theory.costs import Costs
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import Rows as Replayed

Array = NDArray[np.float64]

BUDGETS: Final = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0)  # predicted risk per 100 tokens
LOOKAHEADS: Final = (0.7, 0.5, 0.3, 0.15)
CAPS: Final = (8, 20)
_METHODS: Final[tuple[Method, ...]] = ("sprinter", "lookahead")
_THRESHOLDS: Final = 25


def compare_gates(rows: Collected, gates: Mapping[str, Verifier], costs: Costs, seed: int) -> list[dict[str, Any]]:
    """`frontier` with `budget_table` and `tuned` of every sampling transform in `rows`. Raises DataError.

    `gates`: name -> verifier, among them "verifier accept" and "verifier typical".
    """
    rng = np.random.default_rng(seed)
    results = []
    for traces in traces_of(rows, gates):
        result = frontier(traces, rng)
        result["budgets"] = budget_table(traces, "verifier accept", costs)
        result["tuned"] = tuned(traces, "verifier accept", costs, "tv", TV_LEVELS)
        for gate in ("verifier accept", "verifier typical"):
            result["tuned"] += tuned(traces, gate, costs, "atypical", ATYPICAL_LEVELS)
        results.append(result)
    return results


def budget_table(traces: Traces, gate: str, costs: Costs, max_draft: int = 20) -> list[dict[str, float]]:
    """For each budget: its loss, calls and predicted speed-up, beside the threshold gate's at the same loss."""
    score = traces.scores[gate]
    sweep = Sweep(score, traces.losses["tv"], traces.prompt)
    table = []
    for per_100 in BUDGETS:
        vouched = np.concatenate([_admitted(own, per_100) for own in _by_prompt(traces, score)])
        delta = float((vouched * (1 - traces.accept)).mean())
        calls = sweep.calls_at([delta])[0]
        threshold = float(np.quantile(score, min(1.0, calls)))
        decided = trace_outcome(
            Candidate("sprinter", Setting(0.5, 1.0, max_draft)), _replayed(traces, vouched.astype(float)), costs
        )
        swept = trace_outcome(
            Candidate("sprinter", Setting(threshold, 1.0, max_draft)), _replayed(traces, score), costs
        )
        table.append(
            {
                "budget": per_100,
                "tv": delta,
                "calls": float((~vouched).mean()),
                "speedup": decided.speedup,
                "threshold_calls": calls,
                "threshold_speedup": swept.speedup,
            }
        )
    return table


def tuned(traces: Traces, gate: str, costs: Costs, loss: str, levels: Sequence[float]) -> list[dict[str, Any]]:
    """For each mean `loss` per emitted token: the fastest sprinter and lookahead settings that stay within it.

    `loss`: "tv", or "atypical" for atypical tokens beyond the target's own. `gate`: "verifier accept" or "verifier
    typical", after the scorer that decoding has to run with.
    """
    score = traces.scores[gate]
    replayed = _replayed(traces, score, traces.losses[loss])
    found = {method: _outcomes(method, score, replayed, costs) for method in _METHODS}
    table = []
    for level in levels:
        row: dict[str, Any] = {"loss": loss, "level": level, "scorer": gate.removeprefix("verifier ")}
        for method, outcomes in found.items():
            within = [o for o in outcomes if o.loss <= level]
            best = min(within, key=lambda o: o.seconds_per_token) if within else None
            row[method] = None if best is None else _described(best)
        table.append(row)
    return table


def _outcomes(method: Method, score: Array, replayed: Sequence[Replayed], costs: Costs) -> list[Outcome]:
    """What each setting of the grid is expected to do."""
    bounds = LOOKAHEADS if method == "lookahead" else (1.0,)
    thresholds = np.unique(np.quantile(score, np.linspace(0.02, 0.98, _THRESHOLDS))).tolist()
    settings = [Setting(t, bound, cap) for t in thresholds for cap in CAPS for bound in bounds]
    return [trace_outcome(Candidate(method, setting), replayed, costs) for setting in settings]


def _described(outcome: Outcome) -> dict[str, float]:
    setting = outcome.candidate.setting
    assert setting is not None, "every setting of the grid has a gate"
    return {
        "threshold": setting.threshold,
        "lookahead": setting.lookahead,
        "max_draft": setting.cap,
        "loss": outcome.loss,
        "calls_per_token": outcome.calls_per_token,
        "speedup": outcome.speedup,
    }


def _admitted(score: Array, per_100: float) -> NDArray[np.bool_]:
    budget = RiskBudget(per_100)
    return np.array([budget.admits(float(s)) for s in score], bool)


def _by_prompt(traces: Traces, values: Array) -> list[Array]:
    return np.split(values, np.flatnonzero(np.diff(traces.prompt)) + 1)


def _replayed(traces: Traces, score: Array, cost: Array | None = None) -> list[Replayed]:
    """One text per prompt. `cost` [rows]: what vouching for a row costs, 1 - accept unless given."""
    # As in decoding (build.py): an unvouched token passes by the word on acceptance, whatever vouches.
    survival = traces.scores.get("verifier accept", score)
    columns = (traces.accept, score, survival, traces.losses["tv"] if cost is None else cost)
    parts = zip(*(_by_prompt(traces, column) for column in columns), strict=True)
    return [
        Replayed(np.clip(accept, 0, 1), np.clip(own, 0, 1), np.clip(passing, 0, 1), lost)
        for accept, own, passing, lost in parts
    ]
