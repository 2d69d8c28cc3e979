"""The law of one round in closed form: drafted, tested and emitted tokens, for every method the engine offers.

A round drafts n tokens, calls the target once, and emits the tokens up to the first failed test plus one (the
replacement takes the rejected token's place), or all n plus a bonus if something was tested and nothing failed, or
just n if nothing was tested. kappa, rho, delta are those of `token_law.Split`.

Assumption of every formula here: the (a, f) of successive drafted tokens are independent and follow one law. Rounds
then renew, and a long text's cost per token is E[cost of a round] / E[tokens of a round] (renewal-reward theorem;
docs/theory.md, section 4). `simulator` and `replay` measure what dependence does to that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sprinter.errors import ConfigError
from sprinter.theory.token_law import Split, TokenLaw

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoundLaw:
    """Expectations of one round; everything a cost model needs."""

    length_probs: Array  # [cap]: P[n = 1], .., P[n = cap]; empty for the target alone
    drafted_kept: (
        float  # expected emitted tokens standing at a drafted place: before the first failure, or its replacement
    )
    bonus: float  # P[bonus token]
    tested: float  # expected unvouched tokens sent to the target
    loss: float  # expected sum of v (1 - a) over the emitted tokens

    @property
    def drafted(self) -> float:
        """E[n]."""
        return float(self.length_probs @ np.arange(1, len(self.length_probs) + 1))

    @property
    def tokens(self) -> float:
        """E[tokens emitted]."""
        return self.drafted_kept + self.bonus

    @property
    def calls_per_token(self) -> float:
        """1 / E[tokens]: target calls for one emitted token."""
        return 1.0 / self.tokens

    @property
    def loss_per_token(self) -> float:
        """E[sum of v (1 - a)] / E[tokens]: the mean one-step TV of the emitted tokens, bonus tokens counting 0."""
        return self.loss / self.tokens


def target_round() -> RoundLaw:
    """The target alone, as a round without a draft: one call, one token."""
    return RoundLaw(np.zeros(0), 0.0, 1.0, 0.0, 0.0)


def run_length_probs(stop_prob: float, cap: int) -> Array:
    """P[n = i] = (1 - kappa)^(i-1) kappa for i < L and P[n = L] = (1 - kappa)^(L-1): geometric, capped at L."""
    _check(stop_prob, cap)
    going = (1.0 - stop_prob) ** np.arange(cap)  # P[n >= i]
    return np.asarray(going - np.append(going[1:], 0.0))


def expected_run_length(stop_prob: float, cap: int) -> float:
    """E[n] = (1 - (1 - kappa)^L) / kappa, and its limit L at kappa = 0. Sum of P[n >= i] over i = 1 .. L.

    >>> expected_run_length(0.5, 2)
    1.5
    """
    _check(stop_prob, cap)
    if stop_prob == 0.0:
        return float(cap)
    # expm1 and log1p keep the digits that 1 - (1 - kappa)^L loses for small kappa.
    return -math.expm1(cap * math.log1p(-stop_prob)) / stop_prob if stop_prob < 1.0 else 1.0


def sprinter_round(split: Split, cap: int, capped_keep_prob: float | None = None) -> RoundLaw:
    """SPRINTER, h = 1: E[tokens] = E[n] + (1 - (1 - kappa)^L) rho; loss = E[n] delta.

    The run ends at its first unvouched token, which is the one tested, with chance 1 - (1 - kappa)^L; a full run of
    vouched tokens only catches the target up. The `paper` preset tests the last token of a full draft whoever vouched
    for it: give its acceptance E[a | v = 1] as `capped_keep_prob`; then E[tokens] gains (1 - kappa)^L E[a | v = 1]
    and the loss sheds (1 - kappa)^L E[1 - a | v = 1]. Source: 2502.04557, Algorithm 1, and the official code's cap.
    """
    drafted = expected_run_length(split.stop_prob, cap)
    full = (1.0 - split.stop_prob) ** cap  # chance of a full run, all vouched
    bonus = (1.0 - full) * split.keep_prob
    tested, loss = 1.0 - full, drafted * split.delta
    if capped_keep_prob is not None:
        bonus += full * capped_keep_prob
        tested += full
        loss -= full * (1.0 - capped_keep_prob)
    return RoundLaw(run_length_probs(split.stop_prob, cap), drafted, bonus, tested, loss)


def exact_round(alpha: float, length: int) -> RoundLaw:
    """Exact decoding with g drafted tokens: E[tokens] = (1 - alpha^(g+1)) / (1 - alpha), and g + 1 at alpha = 1.

    Source: Leviathan et al. 2211.17192, equation 1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f"alpha is {alpha}, but an acceptance rate lies in [0, 1]")
    if length < 1:
        return target_round()
    lengths = np.zeros(length)
    lengths[-1] = 1.0
    kept = float((alpha ** np.arange(length)).sum())  # summed, so that alpha = 1 needs no special case
    return RoundLaw(lengths, kept, alpha**length, float(length), 0.0)


def doubts_allowed(unvouched_score: float, lookahead: float) -> int:
    """m = min {k >= 1: f0^k <= h}: unvouched tokens a round holds where all of them score f0.

    >>> doubts_allowed(0.5, 0.2)
    3
    """
    if not 0.0 < unvouched_score < 1.0 or not 0.0 < lookahead <= 1.0:
        raise ConfigError("doubts_allowed needs a score strictly between 0 and 1 and a lookahead in (0, 1]")
    # The subtraction keeps f0^m = h, where the logarithms' quotient may round up, at m.
    return max(1, math.ceil(math.log(lookahead) / math.log(unvouched_score) - 1e-9))


def constant_doubt_tokens(split: Split, doubts: int) -> float:
    """E[tokens] = (1 - rho^m) / (kappa (1 - rho)) + rho^m, with no cap, where every unvouched token scores the same.

    A round holds m unvouched tokens, so n is negative binomial with E[n] = m / kappa; each stretch up to the next
    tested token is 1 / kappa long and is reached with chance rho^j. kappa = 1 gives exact decoding's formula, m = 1
    SPRINTER's.
    """
    if split.stop_prob <= 0.0:
        raise ConfigError("without a cap and without doubt a round never ends: stop_prob must be above 0")
    reached = float((split.keep_prob ** np.arange(doubts)).sum())
    return reached / split.stop_prob + split.keep_prob**doubts


def lookahead_round(law: TokenLaw, threshold: float, lookahead: float, cap: int, bins: int = 192) -> RoundLaw:
    """`lookahead`: draft on while the product S of the unvouched tokens' f exceeds h, up to L; cut at a failed test.

    With N_i = P[n >= i] and R_i = P[n >= i and all tests before i pass], E[n] = sum N_i, E[tokens] = sum R_i +
    P[bonus], loss = delta sum R_i, tested = kappa E[n] (Wald). N and R come from one recursion over -log S: a vouched
    token leaves the state, an unvouched row k moves it by -log f_k with weight w_k (N) or w_k a_k (R). The state is
    kept on `bins` cells of [0, -log h]: exact where all -log f are multiples of -log(h) / bins, else a move is split
    between its two neighbouring cells with the same mean: at 192 bins an error in calls per token below 0.05 %, in E[n]
    itself up to 2 %. threshold = +inf is
    lossless dynamic length; lookahead <= 0 always drafts L tokens.
    """
    _check(0.0, cap)
    split = law.split(threshold)
    moves_draft, moves_kept, size = _doubt_moves(law, threshold, lookahead, bins)
    going = np.zeros(cap)  # N_i
    clear = np.zeros(cap)  # R_i
    vouched_only = 1.0  # chance that no token was unvouched so far
    state_n, state_r = np.zeros(size), np.zeros(size)  # rounds still drafting, with a doubt at -log S
    bonus = 0.0
    for i in range(cap):
        going[i] = vouched_only + state_n.sum()
        clear[i] = vouched_only + state_r.sum()
        seen_n = np.convolve(state_n, moves_draft)
        seen_r = np.convolve(state_r, moves_kept)
        seen_n[: len(moves_draft)] += vouched_only * moves_draft
        seen_r[: len(moves_kept)] += vouched_only * moves_kept
        # Whatever lies in the last cell or beyond has used up the lookahead: the round stops there.
        bonus += float(seen_r[size:].sum())
        state_n = (1.0 - split.stop_prob) * state_n + seen_n[:size]
        state_r = (1.0 - split.stop_prob) * state_r + seen_r[:size]
        vouched_only *= 1.0 - split.stop_prob
    bonus += float(state_r.sum())
    lengths = going - np.append(going[1:], 0.0)
    kept = float(clear.sum())
    return RoundLaw(lengths, kept, bonus, split.stop_prob * float(going.sum()), split.delta * kept)


def _doubt_moves(law: TokenLaw, threshold: float, lookahead: float, bins: int) -> tuple[Array, Array, int]:
    """Mass of an unvouched token by the cells it moves -log S: of all, of kept ones; and the number of live cells."""
    cells: Array
    doubtful = law.score < threshold
    weights, accept = law.weights[doubtful], law.accept[doubtful]
    if lookahead <= 0.0:  # the product never falls below: one cell nobody leaves
        cells, size = np.zeros(len(weights)), 1
    elif lookahead >= 1.0:  # the first doubt stops: every move leaves the single cell
        cells, size = np.ones(len(weights)), 1
    else:
        with np.errstate(divide="ignore"):
            cells = np.log(law.score[doubtful]) / math.log(lookahead) * bins
        # S > h is strict, so a move of exactly `bins` cells must leave; rounding absorbs the logarithm's last digit.
        cells, size = np.asarray(np.round(np.minimum(cells, bins), 9), np.float64), bins
    lower = np.floor(cells).astype(np.int64)
    upper_share = cells - lower

    def spread(mass: Array) -> Array:
        below = np.bincount(lower, mass * (1.0 - upper_share), size + 2)
        above = np.bincount(lower + 1, mass * upper_share, size + 2)
        return np.asarray((below + above)[: size + 1], np.float64)

    return spread(weights), spread(weights * accept), size


def lossless_round(law: TokenLaw, lookahead: float, cap: int, bins: int = 192) -> RoundLaw:
    """Exact decoding whose length the verifier chooses: `lookahead_round` with nobody vouched for (tau = +inf).

    Its output follows the target whatever the scores are, so its loss is 0. Compare SpecDec++, 2405.19715.
    """
    return lookahead_round(law, math.inf, lookahead, cap, bins)


def _check(stop_prob: float, cap: int) -> None:
    if not 0.0 <= stop_prob <= 1.0:
        raise ConfigError(f"stop_prob is {stop_prob}, but a chance lies in [0, 1]")
    if cap < 1:
        raise ConfigError(f"cap is {cap}, but a round drafts at least 1 token")
