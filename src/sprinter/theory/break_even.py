"""Where SPRINTER stops paying: the dearest drafter, the weakest verifier, and the limits no setting passes.

Here time is counted in target calls: c = c_d / c_t, and a call costs 1 whatever its width (a GPU's picture; on a small
processor use `costs` with measured widths). v = c_v / c_t is the verifier's share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from sprinter.errors import ConfigError
from sprinter.theory.closed_forms import RoundLaw, exact_round, sprinter_round
from sprinter.theory.token_law import Split


def relative_cost(round_law: RoundLaw, step_cost: float) -> float:
    """(E[n] c + 1) / E[tokens]: time per token, the target alone costing 1; its inverse is the speed-up."""
    return (round_law.drafted * step_cost + 1.0) / round_law.tokens


def best_exact_cost(alpha: float, draft_cost: float, longest: int = 64) -> float:
    """min over g = 0 .. longest of (g c + 1) (1 - alpha) / (1 - alpha^(g+1)); g = 0 is the target alone, cost 1."""
    return min(relative_cost(exact_round(alpha, g), draft_cost) for g in range(longest + 1))


def winning_draft_costs(
    round_law: RoundLaw, alpha: float, verifier_cost: float = 0.0, longest: int = 64
) -> tuple[float, float] | None:
    """The open interval of c in which a round beats exact decoding of every length and the target alone, or None.

    (E[n] (c + v) + 1) / T < (g c + 1) / T_g is linear in c for each g = 0 .. longest, so the answer is an
    intersection of half lines: with slope = E[n] / T - g / T_g and gap = 1 / T_g - (E[n] v + 1) / T, it is c < gap /
    slope where the slope is positive, c > gap / slope where negative. The upper end is the largest break-even c; g =
    0 gives c <= (T - 1) / E[n] - v.
    """
    low, high = 0.0, float("inf")
    for g in range(longest + 1):
        exact = exact_round(alpha, g)
        slope = round_law.drafted / round_law.tokens - g / exact.tokens
        gap = 1.0 / exact.tokens - (round_law.drafted * verifier_cost + 1.0) / round_law.tokens
        if abs(slope) < 1e-15:
            if gap <= 0.0:
                return None
        elif slope > 0.0:
            high = min(high, gap / slope)
        else:
            low = max(low, gap / slope)
    return (low, high) if low < high else None


@dataclass(frozen=True, slots=True)
class HardLabels:
    """Drafted tokens of two kinds: a share `acceptable` with a = 1, the rest with a = `bad_accept`."""

    acceptable: float
    bad_accept: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.acceptable <= 1.0 or not 0.0 <= self.bad_accept < 1.0:
            raise ConfigError("hard labels need a share of acceptable tokens in (0, 1] and a bad_accept in [0, 1)")

    @property
    def alpha(self) -> float:
        """E[a] = A + (1 - A) a_bad."""
        return self.acceptable + (1.0 - self.acceptable) * self.bad_accept

    def split(self, true_positive_rate: float, false_positive_rate: float) -> Split:
        """kappa = A (1 - TPR) + (1 - A)(1 - FPR), rho = share of it that is kept, delta = (1 - A) FPR (1 - a_bad)."""
        good = self.acceptable * (1.0 - true_positive_rate)
        bad = (1.0 - self.acceptable) * (1.0 - false_positive_rate)
        stop = good + bad
        kept = (good + bad * self.bad_accept) / stop if stop > 0.0 else 1.0
        return Split(stop, kept, (1.0 - self.acceptable) * false_positive_rate * (1.0 - self.bad_accept))


def smallest_true_positive_rate(
    labels: HardLabels, false_positive_rate: float, draft_cost: float, verifier_cost: float = 0.0, cap: int = 20
) -> float | None:
    """The least TPR at which SPRINTER beats the best exact cost s <= 1, at a given FPR and cap; None if no TPR does.

    Found by a scan in steps of 1/500 and bisection, as a small cap breaks monotony: a full run of vouched tokens
    forgoes its bonus (with L = 1 a higher TPR only costs). Without a cap there is one crossing,
    `uncapped_true_positive_rate`.
    """
    exact = best_exact_cost(labels.alpha, draft_cost)
    step = draft_cost + verifier_cost

    def excess(rate: float) -> float:
        return relative_cost(sprinter_round(labels.split(rate, false_positive_rate), cap), step) - exact

    previous = 0.0
    for rate in np.linspace(0.0, 1.0, 501):
        if excess(float(rate)) < 0.0:
            return float(brentq(excess, previous, rate, xtol=1e-12)) if rate > 0.0 else 0.0
        previous = float(rate)
    return None


def uncapped_true_positive_rate(
    labels: HardLabels, false_positive_rate: float, draft_cost: float, verifier_cost: float = 0.0
) -> float | None:
    """TPR = 1 - [s (1 + b a_bad) - c - v - b] / [A (1 - s)], with b = (1 - A)(1 - FPR), s the best exact cost, no cap.

    Without a cap the cost per token is (c + v + kappa) / (1 + kappa rho), kappa = u + b and kappa rho = u + b a_bad
    with u = A (1 - TPR); setting it to s and solving for u gives the line above. The cost falls as the TPR rises
    exactly where c + v + kappa < 1 + kappa rho, that is where SPRINTER beats the target alone, so below s <= 1 it
    stays below. A value below 0 means that every TPR does (0 is returned), one above 1 or s = 1 with a dear drafter
    that none does (None).
    """
    exact = best_exact_cost(labels.alpha, draft_cost)
    bad = (1.0 - labels.acceptable) * (1.0 - false_positive_rate)
    spare = exact * (1.0 + bad * labels.bad_accept) - draft_cost - verifier_cost - bad
    if spare <= 0.0:
        return None
    if exact == 1.0:  # the left side of the equation no longer depends on u: any TPR wins or none
        return 0.0
    return max(0.0, 1.0 - spare / (labels.acceptable * (1.0 - exact)))


def speedup_ceiling(draft_cost: float) -> float:
    """1 / c: where alpha -> 1 and g -> inf, or kappa -> 0 and L -> inf, only the drafting is left to pay."""
    if draft_cost <= 0.0:
        raise ConfigError("draft_cost must be above 0: a free drafter has no ceiling")
    return 1.0 / draft_cost


def capped_ceiling(draft_cost: float, cap: int) -> float:
    """L / (L c + 1): SPRINTER's speed-up as kappa -> 0, since a full run draws no bonus.

    Exact decoding's as alpha -> 1 is (L + 1) / (L c + 1), slightly more.
    """
    return cap / (cap * draft_cost + 1.0)
