"""What happens at one prefix: the law of the emitted token, its distance to the target, and what no gate can avoid.

Notation of every docstring: q = `draft_probs`, p = `target_probs`, both after the same sampling transform;
a(x) = min(1, p(x)/q(x)); r = norm((p - q)+); v(x) in [0, 1] = `vouched`, the chance that the verifier vouches for x
(0 or 1 for a threshold, in between for a randomised gate). Derivations: docs/theory.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sprinter.errors import ConfigError

Array = NDArray[np.float64]


def _laws(target_probs: ArrayLike, draft_probs: ArrayLike) -> tuple[Array, Array]:
    target = np.asarray(target_probs, dtype=np.float64)  # [vocab]
    draft = np.asarray(draft_probs, dtype=np.float64)  # [vocab]
    if target.ndim != 1 or target.shape != draft.shape:
        raise ConfigError(f"two laws over one vocabulary are needed, got shapes {target.shape} and {draft.shape}")
    for owner, probs in (("target", target), ("draft", draft)):
        if not (probs >= 0.0).all() or abs(probs.sum() - 1.0) > 1e-6:
            raise ConfigError(f"{owner}_probs is not a law: its entries must be >= 0 and sum to 1")
    return target, draft


def total_variation(left: ArrayLike, right: ArrayLike) -> float:
    """TV(l, r) = 1/2 sum_x |l(x) - r(x)|, the largest difference any event's probability can show."""
    return 0.5 * float(np.abs(np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64)).sum())


def acceptance_probs(target_probs: ArrayLike, draft_probs: ArrayLike) -> Array:
    """a(x) = min(1, p(x)/q(x)), and 1 where q(x) = 0. Leviathan et al. 2211.17192, Algorithm 1.

    A token with q(x) = 0 is never drafted, so its value is a convention; 1 keeps a(x) = min(1, p/q) at p > q = 0.
    """
    target, draft = _laws(target_probs, draft_probs)
    ratio = np.divide(target, draft, out=np.ones_like(target), where=draft > 0.0)
    return np.minimum(ratio, 1.0)  # [vocab]


def acceptance_rate(target_probs: ArrayLike, draft_probs: ArrayLike) -> float:
    """alpha = E_{x~q} a(x) = sum_x min(p(x), q(x)) = 1 - TV(p, q). Leviathan et al. 2211.17192, Corollary 3.6."""
    target, draft = _laws(target_probs, draft_probs)
    return float(np.minimum(target, draft).sum())


def residual_probs(target_probs: ArrayLike, draft_probs: ArrayLike) -> Array:
    """r = (p - q)+ / sum (p - q)+; p itself where p = q, when nothing is ever rejected. 2211.17192, Algorithm 1."""
    target, draft = _laws(target_probs, draft_probs)
    excess = np.maximum(target - draft, 0.0)  # [vocab]
    mass = float(excess.sum())
    return excess / mass if mass > 0.0 else target


def one_step_law(target_probs: ArrayLike, draft_probs: ArrayLike, vouched: ArrayLike) -> Array:
    """pi(x) = q(x) v(x) + q(x) (1 - v(x)) a(x) + [sum_y q(y) (1 - v(y)) (1 - a(y))] r(x).

    The law of the token that stands at a prefix where a token was drafted: vouched, or tested and kept, or replaced.
    Assumes only that the test's coin is fresh. Exact speculative decoding is v = 0, where pi = p.
    """
    target, draft = _laws(target_probs, draft_probs)
    gate = _gate(vouched, draft)
    accept = acceptance_probs(target, draft)
    tested = draft * (1.0 - gate)  # [vocab]
    replaced = float((tested * (1.0 - accept)).sum())
    return draft * gate + tested * accept + replaced * residual_probs(target, draft)


def one_step_error(target_probs: ArrayLike, draft_probs: ArrayLike, vouched: ArrayLike) -> float:
    """delta = sum_y v(y) (q(y) - p(y))+ = E_{x~q} v(x) (1 - a(x)), and TV(pi, p) = delta: an identity, no bound.

    From pi - p = v (q - p)+ - delta r, whose two parts have disjoint supports (docs/theory.md, section 1).
    Hence delta <= TV(p, q), with equality where every token is vouched for.
    """
    target, draft = _laws(target_probs, draft_probs)
    return float((_gate(vouched, draft) * np.maximum(draft - target, 0.0)).sum())


def _gate(vouched: ArrayLike, draft_probs: Array) -> Array:
    gate = np.asarray(vouched, dtype=np.float64)
    if gate.shape != draft_probs.shape or not ((gate >= 0.0) & (gate <= 1.0)).all():
        raise ConfigError("vouched holds one chance in [0, 1] per token of the vocabulary")
    return gate


def hard_label_rates(target_probs: ArrayLike, draft_probs: ArrayLike, vouched: ArrayLike) -> tuple[float, float]:
    """(P_q[p < q], P_q[v = 1 | p < q]): the share of unacceptable drafted tokens and the false positive rate eta_FP.

    The paper's labels: x is acceptable if q(x) <= p(x). eta_FP is 0 where no token is unacceptable.
    """
    target, draft = _laws(target_probs, draft_probs)
    bad = draft * (target < draft)  # [vocab]
    share = float(bad.sum())
    return share, float((bad * _gate(vouched, draft)).sum()) / share if share > 0.0 else 0.0


def hard_label_bound(unacceptable_share: float, false_positive_rate: float) -> float:
    """delta <= P[unacceptable] * eta_FP, since 1 - a(x) <= 1[p(x) < q(x)]. The paper's bound, 2502.04557.

    Tight where every unacceptable token has p(x) = 0, as under greedy decoding.
    """
    return unacceptable_share * false_positive_rate


def least_error_gate(target_probs: ArrayLike, draft_probs: ArrayLike, tested_share: float) -> Array:
    """The v with E_q[1 - v] = tested_share and the smallest delta: v(x) = 1[a(x) > t], randomised at a(x) = t.

    A fractional knapsack, that is Neyman-Pearson with q as one hypothesis and (q - p)+ as the other: each unit of
    vouched q-mass costs 1 - a(x) of delta, so it is spent on the largest a(x) first (docs/theory.md, section 2).
    """
    target, draft = _laws(target_probs, draft_probs)
    if not 0.0 <= tested_share <= 1.0:
        raise ConfigError(f"tested_share is {tested_share}, but a share lies in [0, 1]")
    order = np.argsort(-acceptance_probs(target, draft), kind="stable")  # [vocab], safest token first
    before = np.concatenate([[0.0], np.cumsum(draft[order])[:-1]])  # q-mass vouched before each token
    room = np.clip((1.0 - tested_share) - before, 0.0, draft[order])
    gate = np.ones_like(draft)
    gate[order] = np.divide(room, draft[order], out=np.ones_like(room), where=draft[order] > 0.0)
    return np.clip(gate, 0.0, 1.0)


def least_tested_share(alpha: float, delta: float) -> float:
    """No gate tests less than 1 - alpha - delta of the drafted tokens, nor vouches for more than alpha + delta.

    From E_q[v] = E_q[v (1 - a)] + E_q[v a] <= delta + alpha, for every v; it averages over prefixes.
    """
    return max(0.0, 1.0 - alpha - delta)


def distance_to_limit(tested_share: float, alpha: float, delta: float) -> float:
    """tested_share - max(0, 1 - alpha - delta): drafted tokens tested that a perfect verifier would have spared."""
    return tested_share - least_tested_share(alpha, delta)


def sequence_error_bound(deltas: ArrayLike) -> float:
    """P[output differs from a target sample] <= E sum_t delta(s_t), at most 1, under the maximal coupling.

    `deltas` is [num_trajectories, num_tokens] (or one trajectory): delta at the prefixes the METHOD visited; bonus and
    resampled tokens enter as 0, and a shorter trajectory is padded with 0. The bound is on the TV of whole sequences.
    """
    rows = np.atleast_2d(np.asarray(deltas, dtype=np.float64))
    if rows.size == 0:
        raise ConfigError("a bound on sequences needs at least one trajectory")
    return min(1.0, float(rows.sum(axis=1).mean()))
