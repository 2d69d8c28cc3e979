"""How far to draft past a doubt: the bound h and the cap that the cost model asks for (docs/theory.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from sprinter.errors import ConfigError
from sprinter.theory.closed_forms import RoundLaw, lookahead_round
from sprinter.theory.costs import Costs, WidthCost, seconds_per_token
from sprinter.theory.token_law import TokenLaw, binormal_law

_BINS = 96
_MOST_TURNS = 12
# The draft of a usual pair, and a threshold in the middle of those that certificates choose. The best bound hardly
# depends on them, and one bound must serve every threshold of a calibration.
_USUAL_ALPHA, _USUAL_AUC, _USUAL_THRESHOLD = 0.65, 0.84, 0.7
_USUAL_VERIFIER = 0.01  # target forwards


@dataclass(frozen=True, slots=True)
class Tuned:
    """A bound and a cap, and the time per token that the closed forms expect of them."""

    lookahead: float
    cap: int
    seconds_per_token: float


def survival_bound(step_s: float, pass_prob: float, token_s: float) -> float:
    """h = min(1, step / (w t)): a further drafted token pays while survival exceeds it.

    `step_s`: what one more drafted token costs, the drafter's step, the verifier's word and its share of the wider
    target call. `pass_prob`: w = (1 - kappa) + kappa rho, the chance that it does not fail a test. `token_s`: t, the
    seconds per token of the policy itself, so that h and t are found together. Source: docs/theory.md, section 9.

    >>> survival_bound(0.25, 0.5, 1.0)
    0.5
    """
    gain_s = pass_prob * token_s
    return min(1.0, step_s / gain_s) if gain_s > 0.0 else 1.0


def tune_lookahead(law: TokenLaw, threshold: float, costs: Costs, max_draft: int = 20) -> Tuned:
    """The bound and cap of least expected time per token at `threshold`, never worse than stopping at the first doubt.

    h asks for the time per token and the time per token for h: they are found in turn (Dinkelbach's method), from h = 1
    on. Assumes scores that are chances of acceptance, and independent tokens.
    """
    if max_draft < 1:
        raise ConfigError(f"max_draft is {max_draft}, but a round drafts at least 1 token")
    split = law.split(threshold)
    pass_prob = 1.0 - split.stop_prob * (1.0 - split.keep_prob)
    best = _tried(law, threshold, costs, 1.0, max_draft)[0]
    bound, cap = 1.0, max_draft
    for _ in range(_MOST_TURNS):
        tuned, round_law = _tried(law, threshold, costs, bound, cap)
        best = min(best, tuned, key=lambda found: found.seconds_per_token)
        new_cap = _cap(costs, tuned.seconds_per_token - costs.token_s, max_draft)
        step_s = _step_seconds(costs, round_law)
        new_bound = survival_bound(step_s, pass_prob, tuned.seconds_per_token - costs.token_s)
        if new_cap == cap and abs(new_bound - bound) < 1e-4:
            break
        bound, cap = new_bound, new_cap
    return best


def _tried(law: TokenLaw, threshold: float, costs: Costs, bound: float, cap: int) -> tuple[Tuned, RoundLaw]:
    round_law = lookahead_round(law, threshold, bound, cap, _BINS)
    return Tuned(bound, cap, seconds_per_token(round_law, costs, with_verifier=True)), round_law


def _step_seconds(costs: Costs, round_law: RoundLaw) -> float:
    """c_d + c_v + E[c_t(n + 2) - c_t(n + 1)], the expectation over the round's length."""
    widths = np.arange(2, len(round_law.length_probs) + 2)
    wider = costs.target_s.at(widths + 1) - costs.target_s.at(widths)
    return costs.draft_s + costs.verifier_s + max(0.0, float(round_law.length_probs @ wider))


def _cap(costs: Costs, token_s: float, max_draft: int) -> int:
    """The longest draft whose last token, even if sure to stand, costs less than a token's usual time."""
    steps = costs.draft_s + costs.verifier_s + np.diff(costs.target_s.at(np.arange(2, max_draft + 2)))
    too_dear = np.flatnonzero(steps >= token_s)  # place i: the step from i + 1 drafted tokens to i + 2
    return int(too_dear[0]) + 1 if len(too_dear) else max_draft


def usual_costs(draft_share: float, growth: float) -> Costs:
    """Costs in target forwards of one token, of a pair nobody has timed.

    `draft_share`: the draft's weight bytes over the target's, since at batch 1 a forward takes as long as reading its
    weights. `growth`: what each further token adds to a target forward.
    """
    if not 0.0 < draft_share < float("inf") or not 0.0 <= growth < float("inf"):
        raise ConfigError(f"a draft share of {draft_share} and a growth of {growth} are no costs")
    return Costs(draft_share, _USUAL_VERIFIER, WidthCost((1, 2), (1.0, 1.0 + growth)))


@cache
def usual_lookahead(draft_share: float, growth: float, max_draft: int = 20) -> tuple[float, int]:
    """(bound, cap) for a pair nobody has timed, the same on every machine; the bound has two digits.

    >>> usual_lookahead(0.14, 0.1)
    (0.58, 20)
    """
    return lookahead_at(usual_costs(draft_share, growth), max_draft)


def lookahead_at(costs: Costs, max_draft: int = 20) -> tuple[float, int]:
    """(bound, cap) for a usual draft and verifier at these costs; the bound has two digits."""
    law = binormal_law(_USUAL_ALPHA, _USUAL_AUC, cells=120)
    tuned = tune_lookahead(law, _USUAL_THRESHOLD, costs, max_draft)
    return round(tuned.lookahead, 2), tuned.cap
