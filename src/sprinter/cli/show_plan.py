"""What a plan looks like: a table for people, one JSON object for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sprinter import door
from sprinter.theory.candidates import Outcome
from sprinter.theory.costs import Costs
from sprinter.theory.lookahead import lookahead_at
from sprinter.theory.planner import Interval, Plan

if TYPE_CHECKING:
    from sprinter.bench.thin import Thin

_SHOWN_POINTS = 12


def as_text(plan: Plan, costs: Costs, source: str, thin: Sequence[Thin] = ()) -> str:
    """The pair, the best setting of each method, the verdict, the frontier, and drafts with blocks left out."""
    auc = "unknown" if plan.auc is None else f"{plan.auc:.2f}"
    lines = [
        f"pair:     {source}",
        f"          a draft step costs {plan.cost_ratio:.3f} of a target forward of one token; the verifier's word "
        f"{costs.verifier_s / costs.target_s(1):.4f}",
        f"          acceptance {plan.alpha:.3f}; AUC of the verifier {auc}",
        *_reading(costs),
        f"          at these costs a lookahead pays at the bound and cap of {' '.join(_lookahead_flags(costs))}",
        f"allowed:  a mean one-step total variation of {plan.max_tv:g} per token",
        "",
        f"{'speed-up':>8}  {'loss':>6}  {'calls/token':>11}  setting",
        *(_row(outcome) for outcome in plan.by_method),
        "",
        plan.verdict,
    ]
    if plan.interval is not None:
        lines.append(f"Speed-up {_range(plan.interval, 2)}x ({plan.interval.meaning}).")
    if plan.loss_interval is not None:
        lines.append(f"Loss {_range(plan.loss_interval, 3)} ({plan.loss_interval.meaning}).")
    if plan.best.candidate.setting is not None:
        lines.append(f"Run it:   sprinter generate {plan.best.candidate.flags()}")
    step = max(1, math.ceil(len(plan.frontier) / _SHOWN_POINTS))
    shown = [*plan.frontier[:-1:step], plan.frontier[-1]]
    lines += ["", "frontier: the fastest setting for its loss or less", *(_row(outcome) for outcome in shown)]
    lines += ["", *_thin_lines(thin)] if thin else []
    return "\n".join(lines)


def _thin_lines(thin: Sequence[Thin]) -> list[str]:
    """Whether the target could draft for itself (method swift)."""
    pays = max(thin, key=lambda t: t.speedup)
    verdict = "pays" if pays.speedup > 1 else "does not pay"
    lines = [f"swift:    drafting with the target less some of its blocks {verdict} here"]
    for t in thin:
        if t.needed is None:
            needed = "even always right it would gain nothing"
        else:
            needed = f"gains where it is right more than {t.needed:.2f} of the time"
        lines.append(
            f"          without {t.share:.0%} of them a draft costs {t.cost:.2f} of the target and is right "
            f"{t.matched:.2f} of the time: {t.speedup:.2f}x; {needed}"
        )
    return lines


def _reading(costs: Costs) -> list[str]:
    """What the prompts' reading costs, where it was timed."""
    if not costs.target_prompt_s:
        return []
    target, draft = costs.target_prompt_s / costs.alone_s, costs.draft_prompt_s / costs.alone_s
    return [f"          reading a prompt takes as long as {target:.1f} tokens of the target; the draft's, {draft:.1f}"]


def _lookahead_flags(costs: Costs) -> list[str]:
    bound, cap = lookahead_at(costs)
    return [f"--lookahead {bound:g}", f"--max-draft {cap}"]


def _row(outcome: Outcome) -> str:
    return (
        f"{outcome.speedup:>7.2f}x  {outcome.loss:>6.3f}  {outcome.calls_per_token:>11.3f}  "
        f"{outcome.candidate.describe()}"
    )


def _range(interval: Interval, digits: int) -> str:
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"


def as_json(plan: Plan, costs: Costs, source: str, thin: Sequence[Thin] = ()) -> str:
    """The plan as one JSON object; times in seconds, or in target forwards where the pair is hypothetical."""
    report: dict[str, Any] = {
        "pair": source,
        "verdict": plan.verdict,
        "worth_it": plan.best.candidate.setting is not None,
        "max_tv": plan.max_tv,
        "alpha": plan.alpha,
        "auc": plan.auc,
        "cost_ratio": plan.cost_ratio,
        "draft_s": costs.draft_s,
        "verifier_s": costs.verifier_s,
        "token_s": costs.token_s,
        "target_prompt_s": costs.target_prompt_s,
        "draft_prompt_s": costs.draft_prompt_s,
        "target_s": {str(w): s for w, s in zip(costs.target_s.widths, costs.target_s.seconds, strict=True)},
        "lookahead": dict(zip(("bound", "cap"), lookahead_at(costs), strict=True)),
        "best": _outcome(plan.best),
        "flags": plan.best.candidate.flags(),
        "speedup_interval": _interval(plan.interval),
        "loss_interval": _interval(plan.loss_interval),
        "by_method": [_outcome(outcome) for outcome in plan.by_method],
        "frontier": [_outcome(outcome) for outcome in plan.frontier],
        "swift": [asdict(t) for t in thin],
    }
    return door.as_json(report)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    setting = outcome.candidate.setting
    gate: dict[str, float | int | None] = {"threshold": None, "lookahead": None, "cap": None}
    if setting is not None:
        # JSON has no infinity: null says that nobody is vouched for; exact decoding has no lookahead either.
        gate = {
            "threshold": setting.threshold if math.isfinite(setting.threshold) else None,
            "lookahead": setting.lookahead if setting.lookahead > 0 else None,
            "cap": setting.cap,
        }
    return {
        "method": outcome.candidate.method,
        **gate,
        "speedup": outcome.speedup,
        "loss": outcome.loss,
        "seconds_per_token": outcome.seconds_per_token,
        "calls_per_token": outcome.calls_per_token,
        "drafted_per_token": outcome.drafted_per_token,
    }


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {"low": interval.low, "high": interval.high, "meaning": interval.meaning}
