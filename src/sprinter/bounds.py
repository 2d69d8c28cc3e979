"""How sure one can be of a mean loss: p-values and bounds from a sample, and bounds that hold at every moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sprinter.errors import ConfigError

Floats = NDArray[np.float64]

# The bettor never stakes quite everything: one loss of 1 would otherwise end the game for good.
_MAX_STAKE = 0.99
_BISECTIONS = 34  # leaves 1e-10
# Bets tried at once by a RunningBound, from "a few dozen tokens" down to "a million". Their ratio of 1.8 leaves every
# best bet within 35% of one tried, which costs 5% of its growth; a finer grid costs more in weight than it saves.
_BETS: Floats = np.asarray(0.9 / 1.8 ** np.arange(12), dtype=np.float64)
_LOG_WEIGHTS: Floats = np.full(_BETS.size, -math.log(_BETS.size))


def checked_losses(losses: ArrayLike) -> Floats:
    """`losses` as a float array, or ConfigError if one is not a number in [0, 1]."""
    values = np.atleast_1d(np.asarray(losses, dtype=np.float64))
    # Written so that NaN, for which every comparison is false, is refused too.
    if not bool(((values >= 0.0) & (values <= 1.0)).all()):
        raise ConfigError("a loss lies outside [0, 1] or is not a number: bounds hold only for losses within it")
    return values


def _check_level(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{name} is {value}, but must lie strictly between 0 and 1")


def hoeffding_bentkus_pvalue(
    losses: ArrayLike, epsilon: float, alpha: float = 0.05, planned: int | None = None
) -> float:
    """P-value of "the mean is above epsilon" for independent losses in [0, 1].

        min( exp(-n KL(min(mean, epsilon) || epsilon)),  e P[Bin(n, epsilon) <= ceil(n mean)] )

    Bates et al. 2021, arXiv:2101.02703, Proposition 1; as a p-value in Angelopoulos et al., arXiv:2110.01052.
    The sample size must be fixed beforehand. `alpha` and `planned` are not used: only the betting p-value has bets to
    tune, and both are called alike.
    """
    # Loading scipy takes a while, which a generation with an audit must not pay. bdtr is the binomial distribution
    # function without the checks that make scipy.stats slow.
    from scipy.special import bdtr  # noqa: PLC0415

    values = checked_losses(losses)
    _check_level("epsilon", epsilon)
    n = values.size
    if n == 0:
        return 1.0
    mean = float(values.mean())
    low = min(mean, epsilon)
    divergence = (1.0 - low) * math.log((1.0 - low) / (1.0 - epsilon))
    if low > 0.0:
        divergence += low * math.log(low / epsilon)
    bentkus = math.e * float(bdtr(min(n, math.ceil(n * mean)), n, epsilon))
    return min(1.0, math.exp(-n * divergence), bentkus)


def betting_pvalue(losses: ArrayLike, epsilon: float, alpha: float = 0.05, planned: int | None = None) -> float:
    """P-value of "the mean is above epsilon" by betting against it.

        K_i = K_{i-1} (1 - bet_i (x_i - epsilon)),   p = 1 / max_i K_i

    Waudby-Smith & Ramdas, arXiv:2010.09686. Each bet uses earlier losses only and lies in [0, 1/(1 - epsilon)), so
    under the null K is a nonnegative supermartingale and p is valid by Ville's inequality. `alpha` only tunes the
    bets: sqrt(2 log(1/alpha) / (n variance)), with the variance of the losses before. Sampling may stop early, for any
    reason seen in the data, if n is then given as `planned`: a bet must not know where the sample will end.
    """
    values = checked_losses(losses)
    _check_level("epsilon", epsilon)
    _check_level("alpha", alpha)
    if values.size == 0:
        return 1.0
    return math.exp(-_best_log_capital(values, _plug_in_bets(values, alpha, planned or values.size), epsilon))


def betting_pvalues(table: Floats, epsilons: Floats, alpha: float, planned: int) -> Floats:
    """`betting_pvalue` of every column of `table` [prompts, columns] against a level of its own, [columns].

    The losses must be known to lie in [0, 1].
    """
    if len(table) == 0:
        return np.ones(len(epsilons))
    capital = _log_capital(table, _plug_in_bets(table, alpha, planned), epsilons).max(axis=0)
    pvalues: Floats = np.exp(-np.maximum(0.0, capital))
    return pvalues


def _plug_in_bets(values: Floats, alpha: float, planned: int) -> Floats:
    """What to stake on each loss from the losses before it (in its column), not yet capped for the null at hand."""
    seen = np.arange(1, len(values) + 1).reshape(-1, *[1] * (values.ndim - 1))
    means = (0.5 + np.cumsum(values, axis=0)) / (seen + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2, axis=0)) / (seen + 1)
    before = np.concatenate((np.full_like(variances[:1], 0.25), variances[:-1]))
    bets: Floats = np.sqrt(2.0 * math.log(1.0 / alpha) / (planned * before))
    return bets


def _best_log_capital(values: Floats, bets: Floats, epsilon: float) -> float:
    """max(0, max_i log K_i) of the capital that bets on a mean below epsilon."""
    return max(0.0, float(_log_capital(values, bets, epsilon).max()))


def _log_capital(values: Floats, bets: Floats, epsilon: float | Floats) -> Floats:
    """log K_i for all i."""
    stakes = np.minimum(bets, _MAX_STAKE / (1.0 - epsilon))
    capital: Floats = np.cumsum(np.log1p(-stakes * (values - epsilon)), axis=0)
    return capital


PValue = Callable[[ArrayLike, float, float, int | None], float]
PVALUES: Mapping[str, PValue] = {
    "betting": betting_pvalue,
    "hoeffding-bentkus": hoeffding_bentkus_pvalue,
}


def pvalue_named(name: str) -> PValue:
    """The p-value called `name`, or ConfigError listing those there are."""
    if name not in PVALUES:
        raise ConfigError(f"unknown p-value {name!r}: choose one of {', '.join(sorted(PVALUES))}")
    return PVALUES[name]


def upper_bound(losses: ArrayLike, alpha: float, method: str = "betting", planned: int | None = None) -> float:
    """The smallest epsilon whose null the sample rejects at alpha: a (1 - alpha) upper bound on the mean.

    Both p-values fall as epsilon grows beyond the sample mean, so the bound is found by bisection; the returned end
    of the last interval is the rejected one.
    """
    values = checked_losses(losses)
    _check_level("alpha", alpha)
    pvalue = pvalue_named(method)
    if values.size == 0:
        return 1.0
    kept, rejected = float(values.mean()), 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (kept + rejected)
        if not 0.0 < middle < 1.0:
            break
        if pvalue(values, middle, alpha, planned) <= alpha:
            rejected = middle
        else:
            kept = middle
    return rejected


class RunningBound:
    """Upper and lower bounds on what a stream has lost so far, valid at every moment at once.

    Covers: losses x_1, x_2, ... in [0, 1] whose conditional means mu_i = E[x_i | everything before] are arbitrary, may
    drift, and may depend on the past in any way (no independence, no common mean, no exchangeability). With
    probability at least 1 - alpha, for EVERY t at once, the running average (mu_1 + ... + mu_t) / t is at most
    `upper`; likewise, with its own 1 - alpha, at least `lower`. For the audit mu_i is delta(s_i), the exact total
    variation at a prefix the stream really visited. It does not speak of tokens never audited, nor of future ones.

    For a bet b in (0, 1):  E[1 - b x_i | past] = 1 - b mu_i <= exp(-b mu_i), so

        prod_i (1 - b x_i) exp(b mu_i)    and    prod_i (1 + b x_i) exp(-b mu_i)

    are nonnegative supermartingales from 1, and so is their average over a fixed set of bets. By Ville's inequality
    the averages stay below 1/alpha; both are monotone in sum mu_i, which gives the bounds. The idea of betting is
    from Waudby-Smith & Ramdas (arXiv:2010.09686); bounding the average of changing means, from Howard et al.
    (arXiv:1810.08240). Width: about sqrt(2 mean(x^2) log(12/alpha) / t), loose where the mean is above 1/2.

    A loss of 0 changes the count alone; any other costs one vectorised logarithm over twelve bets.
    """

    __slots__ = ("_count", "_log_lower", "_log_upper", "_total", "alpha")

    def __init__(self, alpha: float = 0.05) -> None:
        _check_level("alpha", alpha)
        self.alpha = alpha
        self._count = 0
        self._total = 0.0
        self._log_upper: Floats = np.zeros(_BETS.size)
        self._log_lower: Floats = np.zeros(_BETS.size)

    @property
    def count(self) -> int:
        """Losses seen so far."""
        return self._count

    @property
    def mean(self) -> float:
        """Mean of the losses seen so far; 0 before the first."""
        return self._total / self._count if self._count else 0.0

    def update(self, losses: Sequence[float] | Floats) -> None:
        """Take in the next losses of the stream, in order."""
        self._count += len(losses)
        positive = [loss for loss in losses if loss != 0.0]
        if not positive:
            return
        values = checked_losses(positive)
        self._total += float(values.sum())
        if values.size == 1:
            scaled = _BETS * values[0]
            self._log_upper += np.log1p(-scaled)
            self._log_lower += np.log1p(scaled)
            return
        table = np.outer(values, _BETS)  # [losses, bets]
        self._log_upper += np.log1p(-table).sum(axis=0)
        self._log_lower += np.log1p(table).sum(axis=0)

    def absorb(self, other: RunningBound) -> None:
        """Take in a piece of the stream that was summed up elsewhere, as if its losses came next, in its order."""
        self._count += other._count
        self._total += other._total
        self._log_upper += other._log_upper
        self._log_lower += other._log_lower

    def upper_at(self, alpha: float) -> float:
        """Upper bound on the running average of conditional means, at another level than the usual."""
        if self._count == 0:
            return 1.0
        # The largest sum S with log mean_b exp(log_upper_b + b S) <= log(1/alpha).
        total = _root(_LOG_WEIGHTS + self._log_upper, _BETS, math.log(1.0 / alpha))
        return min(1.0, total / self._count)

    def lower_at(self, alpha: float) -> float:
        """Lower bound on the running average of conditional means, at another level than the usual."""
        if self._count == 0:
            return 0.0
        # The smallest S >= 0 with log mean_b exp(log_lower_b - b S) <= log(1/alpha).
        total = _root(_LOG_WEIGHTS + self._log_lower, -_BETS, math.log(1.0 / alpha))
        return max(0.0, total / self._count)

    @property
    def upper(self) -> float:
        """Upper bound on the running average of conditional means; 1 before the first loss."""
        return self.upper_at(self.alpha)

    @property
    def lower(self) -> float:
        """Lower bound on the running average of conditional means; 0 before the first loss."""
        return self.lower_at(self.alpha)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on later, as JSON types."""
        return {
            "alpha": self.alpha,
            "count": self._count,
            "total": self._total,
            "log_upper": self._log_upper.tolist(),
            "log_lower": self._log_lower.tolist(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RunningBound:
        """The bound that `state()` described; ConfigError if it describes none."""
        try:
            bound = cls(float(state["alpha"]))
            bound._count = int(state["count"])
            bound._total = float(state["total"])
            bound._log_upper = np.asarray(state["log_upper"], dtype=np.float64)
            bound._log_lower = np.asarray(state["log_lower"], dtype=np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"the saved state of a running bound is damaged ({error}): start a new one") from None
        arrays = (bound._log_upper, bound._log_lower)
        whole = all(array.shape == _BETS.shape and bool(np.isfinite(array).all()) for array in arrays)
        if not whole or not 0.0 <= bound._total <= bound._count:
            raise ConfigError("the saved state of a running bound is damaged (impossible numbers): start a new one")
        return bound


def _root(offsets: Floats, slopes: Floats, target: float) -> float:
    """Where log sum exp(offsets + slopes s) meets `target`; slopes have one sign, so there is one such s.

    Newton from the nearest single term's own root: the function is convex and that start lies on the side where it is
    above the target, from which every step stays on that side.
    """
    roots = (target - offsets) / slopes
    s = float(roots.min() if slopes[0] > 0 else roots.max())
    for _ in range(60):
        exponents = offsets + slopes * s
        top = float(exponents.max())
        weights = np.exp(exponents - top)
        mass = float(weights.sum())
        gap = top + math.log(mass) - target
        step = gap * mass / float(weights @ slopes)
        s -= step
        if abs(step) <= 1e-12 * (1.0 + abs(s)):
            break
    return s
