"""The joint law of (acceptance chance, verifier score) of a drafted token: recorded, made up, or from an AUC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtr, ndtri

from sprinter.errors import ConfigError, DataError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Split:
    """What a threshold does to a drafted token: kappa = P[v = 0], rho = E[a | v = 0], delta = E[v (1 - a)]."""

    stop_prob: float  # kappa
    keep_prob: float  # rho; 1 where nothing is tested
    delta: float


@dataclass(frozen=True, slots=True)
class TokenLaw:
    """A discrete law of (a, f): row k weighs `weights[k]`, is accepted with `accept[k]`, is scored `score[k]`."""

    weights: Array  # [rows], sums to 1
    accept: Array  # [rows], in [0, 1]
    score: Array  # [rows], in [0, 1]

    def __post_init__(self) -> None:
        if not len(self.weights) == len(self.accept) == len(self.score) or len(self.weights) == 0:
            raise DataError("a law of drafted tokens needs at least one row, and a weight, accept and score in each")
        for name, values in (("accept", self.accept), ("score", self.score)):
            if not ((values >= 0.0) & (values <= 1.0)).all():
                raise DataError(f"{name} holds a value outside [0, 1]: chances are wanted, not logits or percentages")
        if not (self.weights >= 0.0).all() or abs(float(self.weights.sum()) - 1.0) > 1e-9:
            raise DataError("the weights of a law must be >= 0 and sum to 1")

    @classmethod
    def from_rows(cls, accept: ArrayLike, score: ArrayLike) -> TokenLaw:
        """The empirical law of recorded (a, f) rows, each of the same weight."""
        accepted, scored = np.asarray(accept, np.float64), np.asarray(score, np.float64)
        return cls(np.full(len(accepted), 1.0 / max(1, len(accepted))), accepted, scored)

    @property
    def alpha(self) -> float:
        """alpha = E[a]: the chance that exact speculative decoding keeps a drafted token."""
        return float(self.weights @ self.accept)

    def split(self, threshold: float) -> Split:
        """kappa, rho and delta of v = 1[f >= threshold], by summing the rows on either side."""
        vouched = self.score >= threshold
        stop = float(self.weights[~vouched].sum())
        kept = float(self.weights[~vouched] @ self.accept[~vouched])
        delta = float(self.weights[vouched] @ (1.0 - self.accept[vouched]))
        return Split(stop, kept / stop if stop > 0.0 else 1.0, delta)

    def thresholds(self, count: int) -> Array:
        """At most `count` thresholds, safest first, between vouching for nobody (+inf) and for everybody (0)."""
        order = np.argsort(self.score, kind="stable")
        mass = np.cumsum(self.weights[order])
        places = np.searchsorted(mass, np.linspace(0.0, 1.0, count - 1)).clip(max=len(order) - 1)
        return np.concatenate([[np.inf], np.unique(self.score[order][places])[::-1]])


def binormal_law(alpha: float, auc: float, cells: int = 400) -> TokenLaw:
    """A calibrated verifier of a given ROC-AUC on hard labels: z ~ N(0, 1) if rejected, N(mu, 1) if accepted.

    mu = sqrt(2) Phi^-1(auc), since AUC = P[z_acc > z_rej] = Phi(mu / sqrt 2) (Green & Swets 1966; Hanley 1988), and
    f = P[accepted | z] = sigmoid(logit(alpha) + mu z - mu^2 / 2) by Bayes. Assumes a in {0, 1}, as greedy decoding
    makes it; under sampling a is soft and real ROC curves need not be binormal. The line of z is cut into `cells`
    cells; each is one row with a = f = P[accepted | cell], so alpha is exact and the AUC within 1e-3 at 400 cells.
    """
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"alpha is {alpha}, but a share of accepted tokens strictly between 0 and 1 is needed")
    if not 0.5 <= auc < 1.0:
        raise ConfigError(f"auc is {auc}, but must be at least 0.5 (a coin) and below 1 (an oracle)")
    shift = float(np.sqrt(2.0) * ndtri(auc))
    edges = np.concatenate([[-np.inf], np.linspace(-6.0, shift + 6.0, cells - 1), [np.inf]])  # [cells + 1]
    accepted = alpha * np.diff(ndtr(edges - shift))  # [cells], joint with "accepted"
    rejected = (1.0 - alpha) * np.diff(ndtr(edges))
    # In the outermost cells both masses underflow; Bayes' rule at the cell's inner edge is their limit.
    inner = np.concatenate([[edges[1]], 0.5 * (edges[1:-2] + edges[2:-1]), [edges[-2]]])
    limit = expit(logit(alpha) + shift * inner - 0.5 * shift**2)
    weights = accepted + rejected
    # Rounded, so that an AUC of 1/2 gives one score and not a cloud of last digits to set thresholds in.
    posterior = np.round(np.where(weights > 1e-280, accepted / np.maximum(weights, 1e-280), limit), 12)
    return TokenLaw(weights / weights.sum(), posterior, posterior)


def auc_of(law: TokenLaw) -> float | None:
    """P[f_acc > f_rej] + 1/2 P[f_acc = f_rej], each row accepted with weight w a, rejected with w (1 - a).

    None where all rows have the same label, so that there is no pair to rank.
    """
    values, group = np.unique(law.score, return_inverse=True)
    accepted = np.bincount(group, law.weights * law.accept, len(values))
    rejected = np.bincount(group, law.weights * (1.0 - law.accept), len(values))
    total = accepted.sum() * rejected.sum()
    if total <= 0.0:
        return None
    below = np.cumsum(rejected) - rejected
    return float((accepted * (below + 0.5 * rejected)).sum() / total)
