"""What a round's shape adds to the frontier: the risk budget, lookahead, predicted time, all by exact replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sprinter.decoding.gates.budget import RiskBudget
from sprinter.evaluation.frontier import Sweep, Traces
from sprinter.theory.candidates import Candidate, Method, trace_outcome
from sprinter.theory.costs import Costs
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import Rows as Replayed

Array = NDArray[np.float64]

BUDGETS: Final = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0)  # predicted risk per 100 tokens
LOOKAHEADS: Final = (0.7, 0.5, 0.3, 0.15)
CAPS: Final = (8, 20)
_THRESHOLDS: Final = 13


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


def tuned_lookahead(traces: Traces, gate: str, costs: Costs, levels: Sequence[float]) -> list[dict[str, Any]]:
    """For each mean delta per emitted token: the fastest sprinter and lookahead settings that stay within it."""
    score = traces.scores[gate]
    replayed = _replayed(traces, score)
    thresholds = np.unique(np.quantile(score, np.linspace(0.02, 0.98, _THRESHOLDS)))
    outcomes: dict[Method, list[Any]] = {"sprinter": [], "lookahead": []}
    for threshold in thresholds.tolist():
        for cap in CAPS:
            outcomes["sprinter"].append(
                trace_outcome(Candidate("sprinter", Setting(threshold, 1.0, cap)), replayed, costs)
            )
            for bound in LOOKAHEADS:
                candidate = Candidate("lookahead", Setting(threshold, bound, cap))
                outcomes["lookahead"].append(trace_outcome(candidate, replayed, costs))
    table = []
    for level in levels:
        row: dict[str, Any] = {"tv": level}
        for method, found in outcomes.items():
            within = [o for o in found if o.loss <= level]
            best = min(within, key=lambda o: o.seconds_per_token) if within else None
            row[method] = None if best is None else _described(best)
        table.append(row)
    return table


def _described(outcome: Any) -> dict[str, float]:
    setting = outcome.candidate.setting
    return {
        "threshold": setting.threshold,
        "lookahead": setting.lookahead,
        "max_draft": setting.cap,
        "tv": outcome.loss,
        "calls_per_token": outcome.calls_per_token,
        "speedup": outcome.speedup,
    }


def _admitted(score: Array, per_100: float) -> NDArray[np.bool_]:
    budget = RiskBudget(per_100)
    return np.array([budget.admits(float(s)) for s in score], bool)


def _by_prompt(traces: Traces, values: Array) -> list[Array]:
    return np.split(values, np.flatnonzero(np.diff(traces.prompt)) + 1)


def _replayed(traces: Traces, score: Array) -> list[Replayed]:
    pairs = zip(_by_prompt(traces, traces.accept), _by_prompt(traces, score), strict=True)
    return [Replayed(np.clip(accept, 0, 1), np.clip(own, 0, 1)) for accept, own in pairs]
