"""The result in a sentence, and only as much of it as the prompts show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from sprinter.bench.bootstrap import FEWEST, Interval, paired_mean, speedup
from sprinter.bench.journal import Record

LEVEL: Final = 0.02  # atypical tokens beyond the target's own
_ERROR: Final = 0.05  # of all intervals together
Rows = Mapping[str, Record]  # finished runs by prompt


def headline(runs: Mapping[str, Rows], seed: int) -> dict[str, Any]:
    """Which method is fastest within LEVEL, as JSON types with the sentence as `text`.

    Best is whose speed-up's interval has the highest lower end, among those whose loss has its upper end within LEVEL
    or that lose nothing by construction. Every interval is so wide that all of them hold together (Bonferroni): the
    best of many is else partly the luckiest. With fewer than FEWEST prompts nothing is decided.
    """
    target = runs.get("target", {})
    rivals = {name: rows for name, rows in runs.items() if name != "target" and rows.keys() & target.keys()}
    level = 1 - _ERROR / max(1, 2 * len(rivals))
    found = {name: _measured(rows, target, level, seed) for name, rows in rivals.items()}
    within = {name: speed for name, (speed, within) in found.items() if within}
    if not within:
        return {"method": None, "decided": False, "text": _NONE}
    best = max(within, key=lambda name: within[name].low)
    speed, prompts = within[best], len(rivals[best].keys() & target.keys())
    ratio = f"{speed.value:.2f}x the speed of the target alone ({speed.low:.2f} to {speed.high:.2f})"
    if prompts < FEWEST:
        text = f"{prompts} prompts decide nothing ({FEWEST} are needed). So far {best} has {ratio}."
    elif speed.low <= 1:
        text = f"No method is shown to be faster than the target alone. The best, {best}, has {ratio}."
    else:
        text = f"{_WITHIN}, {best} is fastest: {ratio}"
    decided = prompts >= FEWEST and speed.low > 1
    return {"method": best, "decided": decided, "level": level, "speedup": speed.told(), "text": text}


_WITHIN: Final = f"Within {LEVEL:.0%} atypical tokens beyond the target's own rate"
_NONE: Final = f"No method is shown to stay within {LEVEL:.0%} atypical tokens beyond the target's own rate."


def _measured(own: Rows, target: Rows, level: float, seed: int) -> tuple[Interval, bool]:
    """A method's speed-up over the target, on the prompts both finished, and whether it is shown to stay in LEVEL."""
    shared = [prompt for prompt in own if prompt in target]
    rng = np.random.default_rng(seed)
    (seconds, tokens), (other_seconds, other_tokens) = (
        np.array([(rows[p]["seconds"], len(rows[p]["ids"])) for p in shared], float).T for rows in (own, target)
    )
    speed = speedup(seconds, tokens, other_seconds, other_tokens, rng, level)
    excess = np.array([own[p]["atypical"] - own[p]["own_atypical"] for p in shared])
    exact = all(own[p]["delta"] == 0 for p in shared)
    return speed, exact or paired_mean(excess, rng, level).high <= LEVEL
