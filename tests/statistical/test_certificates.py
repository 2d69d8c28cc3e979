"""Coverage: certificates, p-values and the running bound keep what they promise on streams with exactly known risk.

The stream is SPRINTER on a toy pair small enough to know everything: 8 tokens, laws that depend on the last one, a
verifier that sees a noisy a(x). Prompts differ in how far draft and target lie apart. Every test names its power.

Certificates are tested on answers of ONE token: averaging over a prompt's tokens makes a loss less spread out and every
bound more cautious, so this is the case in which a wrong certificate is most likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from sprinter.bounds import PVALUES, RunningBound
from sprinter.certify.calibrate import Plan, calibrate, fixed_sequence
from sprinter.certify.journal import Measurement
from sprinter.certify.risks import RISKS, SHORT, Aim
from sprinter.certify.sample import Sample
from sprinter.models.toy import ToyModel
from tests.support.passes import read

Floats = NDArray[np.float64]
VOCAB = 8
NUM_KINDS = 6  # kinds of prompts, each with a draft of its own quality
NUM_TOKENS = 32  # where many steps are wanted; certificates: see above
CALIBRATIONS = 2_000
ALPHA = 0.1


@dataclass(frozen=True)
class Tables:
    """Laws and one-step errors of every kind of prompt at one threshold; contexts are the last token."""

    emitted: Floats  # [kinds, context, vocab], pi
    drafted: Floats  # [kinds, context, vocab], q
    losses: Floats  # [kinds, context, vocab], v (1 - a) of a drafted token
    delta: Floats  # [kinds, context]


def laws() -> tuple[Floats, Floats, Floats]:
    """p, q [kinds, context, vocab] and the verifier's scores, a noisy a(x), same shape."""
    target = ToyModel.random(VOCAB, seed=3, spread=2.0)
    p, q = np.empty((2, NUM_KINDS, VOCAB, VOCAB))
    for kind, noise in enumerate((0.05, 0.1, 1, 2, 4, 8)):
        for table, model in ((p, target), (q, target.near(seed=10 + kind, noise=noise))):
            logits = np.stack([read(model, [token]).logits[0] for token in range(VOCAB)])
            table[kind] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wobble = np.random.default_rng(4).normal(0, 0.5, p.shape)
    return p, q, np.clip(np.minimum(1, p / q) + wobble, 0, 1)


P, Q, SCORES = laws()


def tables(threshold: float) -> Tables:
    """Section "exact one-step error": pi = q v + q (1 - v) a + [rejected mass] r, delta = sum v (q - p)+."""
    v = (threshold <= SCORES).astype(float)
    a = np.minimum(1, P / Q)
    excess = np.maximum(P - Q, 0)
    r = excess / excess.sum(axis=2, keepdims=True)
    rejected = (Q * (1 - v) * (1 - a)).sum(axis=2, keepdims=True)
    pi = Q * v + Q * (1 - v) * a + rejected * r
    return Tables(pi, Q, v * (1 - a), (v * np.maximum(Q - P, 0)).sum(axis=2))


def exact_risk(at: Tables, num_tokens: int) -> float:
    """Mean over kinds of the mean over tokens of E[delta(s_t)], by powers of the chain; contexts start uniform."""
    place = np.full((NUM_KINDS, VOCAB), 1 / VOCAB)
    total = 0.0
    for _ in range(num_tokens):
        total += float((place * at.delta).sum(axis=1).mean())
        place = np.einsum("kc,kcv->kv", place, at.emitted)
    return total / num_tokens


def draw(cumulative: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """One index a row, by inversion. `cumulative` [rows, vocab]."""
    return np.minimum((rng.random(len(cumulative))[:, None] > cumulative).sum(axis=1), VOCAB - 1)


def audited(at: Tables, num_prompts: int, num_tokens: int, rng: np.random.Generator) -> Floats:
    """d_t of on-policy prompts, [prompts, tokens]: draft, take if vouched, else test and resample."""
    kinds = rng.integers(NUM_KINDS, size=num_prompts)
    context = rng.integers(VOCAB, size=num_prompts)
    drafted = np.cumsum(at.drafted, axis=2)
    fallback = np.maximum(P - Q, 0).cumsum(axis=2)
    fallback /= fallback[..., -1:]
    accept = np.minimum(1, P / Q)
    losses = np.empty((num_tokens, num_prompts))
    vouched = at.losses + (accept == 1) * (at.losses == 0)  # only its sign where a < 1 matters below
    for step in range(num_tokens):
        token = draw(drafted[kinds, context], rng)
        losses[step] = at.losses[kinds, context, token]
        tested = vouched[kinds, context, token] == 0
        rejected = tested & (rng.random(num_prompts) >= accept[kinds, context, token])
        context = np.where(rejected, draw(fallback[kinds, context], rng), token)
    return losses.T


THRESHOLDS = (0.99, 0.9, 0.8, 0.2)
AT = {threshold: tables(threshold) for threshold in THRESHOLDS}
RISK = {threshold: exact_risk(at, 1) for threshold, at in AT.items()}


@pytest.fixture(scope="module")
def pool() -> dict[float, Floats]:
    """Per-prompt losses of 100,000 prompts a threshold, to draw calibration sets from."""
    rng = np.random.default_rng(11)
    return {threshold: audited(at, 100_000, 1, rng).mean(axis=1) for threshold, at in AT.items()}


def test_the_audit_is_unbiased_over_a_million_steps() -> None:
    # Power: leaving out the tokens of every tenth call would shift the mean by 10%, over 10 standard errors.
    rng = np.random.default_rng(12)
    at = AT[0.8]
    losses = audited(at, 32_000, NUM_TOKENS, rng)
    assert losses.size >= 1_000_000
    # Tokens of a prompt share its kind, so the error of the mean is that of independent prompts.
    prompts = losses.mean(axis=1)
    error = prompts.std(ddof=1) / np.sqrt(len(prompts))
    assert abs(losses.mean() - exact_risk(at, NUM_TOKENS)) <= 4 * error


def test_given_the_prefix_the_audit_is_unbiased_at_every_prefix() -> None:
    # 32 prefixes, so the bound is wider: 4.5 standard errors are passed by chance once in 4,500 runs. The two kinds
    # left out have drafts so sure of themselves that most tokens are never drawn.
    rng = np.random.default_rng(13)
    at = AT[0.2]
    count = 20_000
    for kind in range(4):
        for context in range(VOCAB):
            token = rng.choice(VOCAB, size=count, p=at.drafted[kind, context])
            losses = at.losses[kind, context, token]
            error = losses.std() / np.sqrt(count)
            assert abs(losses.mean() - at.delta[kind, context]) <= 4.5 * error + 1e-12


def violations(bound: str, epsilon: float, pool: dict[float, Floats], num_prompts: int) -> tuple[int, int, int]:
    """Of 2,000 calibrations: (violated, certified, violated by the off-by-one variant)."""
    rng = np.random.default_rng(14)
    plan = Plan(THRESHOLDS, (Aim("tv", epsilon),), num_prompts, num_prompts, ALPHA, bound)
    violated = certified = off_by_one = 0
    for _ in range(CALIBRATIONS):
        rows = rng.integers(100_000, size=num_prompts)
        claim = fixed_sequence(plan, lambda threshold, _, rows=rows: {"tv": short(pool[threshold][rows])})[0]
        if claim.threshold is not None:
            certified += 1
            violated += RISK[claim.threshold] > epsilon
        # A known bug elsewhere: keep the first threshold that was NOT rejected.
        first_kept = THRESHOLDS[min(len(claim.pvalues), len(THRESHOLDS)) - 1]
        off_by_one += RISK[first_kept] > epsilon
    return violated, certified, off_by_one


@pytest.mark.parametrize("bound", sorted(PVALUES))
@pytest.mark.parametrize("boundary", [1, 2, 3])
def test_certificates_are_violated_no_more_often_than_alpha(
    bound: str, boundary: int, pool: dict[float, Floats]
) -> None:
    # Epsilon lies a hair below the risk of one threshold, so that certifying it is a violation, and hard to avoid: the
    # betting bound is violated in about 8% of calibrations here, with alpha at 10%.
    # Power: with 2,000 calibrations a true share of 1.3 alpha is caught with probability above 99%.
    epsilon = RISK[THRESHOLDS[boundary]] * 0.999
    violated, certified, off_by_one = violations(bound, epsilon, pool, 200)
    assert binomtest(violated, CALIBRATIONS, ALPHA, alternative="greater").pvalue > 1e-3
    if boundary > 1:
        assert certified > 0.95 * CALIBRATIONS, "the test is empty if nothing is ever certified"
        # The same count, for the threshold after the last rejected one, must fail the same test.
        assert binomtest(off_by_one, CALIBRATIONS, ALPHA, alternative="greater").pvalue < 1e-6


def short(losses: Floats) -> Sample:
    """Texts of one token."""
    return Sample(RISKS["tv"], (1,), losses[:, None], np.ones((len(losses), 1)), SHORT)


class NoJournal:
    """Nothing is kept: every calibration is new."""

    def get(self, threshold: float, prompt: int) -> None:
        return None

    def put(self, threshold: float, prompt: int, measured: Measurement) -> None:
        pass


def test_calibrations_that_leave_thresholds_early_are_violated_no_more_often_than_alpha(
    pool: dict[float, Floats],
) -> None:
    # The rule as it runs: looked at every ten prompts, left once both levels are proven or given up, measured on where
    # certified. One level lies a hair below the risk of the third threshold, the other below that of the fourth.
    # 700 calibrations, as each costs 20 ms: a true share of 1.5 alpha is caught with probability above 99%. The
    # off-by-one variant is caught for both levels.
    calibrations = 700
    rng = np.random.default_rng(18)
    aims = (Aim("tv", RISK[0.8] * 0.999), Aim("tv", RISK[0.2] * 0.999))
    plan = Plan(THRESHOLDS, aims, 200, 60, ALPHA)
    violated, certified, off_by_one, used = np.zeros(2), np.zeros(2), np.zeros(2), []
    for _ in range(calibrations):
        rows = rng.integers(100_000, size=plan.num_prompts)
        drawn = {threshold: losses[rows].tolist() for threshold, losses in pool.items()}

        def measure(threshold, prompts, drawn=drawn):
            return ((n, Measurement({"tv": [drawn[threshold][n]]}, 1, 1)) for n in prompts)

        grid, claims = calibrate(plan, measure, NoJournal())
        counts = {row.threshold: row.num_prompts for row in grid}
        used.append(sum(counts.values()) / len(counts))
        for place, (aim, claim) in enumerate(zip(aims, claims, strict=True)):
            first_kept = THRESHOLDS[min(len(claim.pvalues), len(THRESHOLDS)) - 1]
            off_by_one[place] += RISK[first_kept] > aim.epsilon
            if claim.threshold is not None:
                certified[place] += 1
                violated[place] += RISK[claim.threshold] > aim.epsilon
                assert counts[claim.threshold] >= plan.min_prompts
    assert np.mean(used) < 0.8 * plan.num_prompts, "the test is empty if nothing is left early"
    for place in range(2):
        assert binomtest(int(violated[place]), calibrations, ALPHA, alternative="greater").pvalue > 1e-3
        assert certified[place] > 0.95 * calibrations, "the test is empty if nothing is ever certified"
        assert binomtest(int(off_by_one[place]), calibrations, ALPHA, alternative="greater").pvalue < 1e-6


@pytest.mark.parametrize("bound", sorted(PVALUES))
def test_p_values_are_valid_exactly_at_the_boundary(bound: str) -> None:
    # Bernoulli losses with mean epsilon are the hardest null. Power, 2,000 samples: 1.3 alpha is caught in over 99%.
    rng = np.random.default_rng(15)
    for epsilon, num in ((0.05, 100), (0.3, 40)):
        losses = (rng.random((2_000, num)) < epsilon).astype(float)
        rejected = sum(PVALUES[bound](row, epsilon, ALPHA, None) <= ALPHA for row in losses)
        assert binomtest(rejected, 2_000, ALPHA, alternative="greater").pvalue > 1e-3


def test_looking_at_the_betting_p_value_again_and_again_keeps_the_level() -> None:
    # The boundary again, looked at after 10, 20, ... prompts. A p-value for one look, the t-test, fails the same test.
    rng = np.random.default_rng(16)
    epsilon, num = 0.2, 100
    betting = once = 0
    for losses in (rng.random((CALIBRATIONS, num)) < epsilon).astype(float):
        looks = range(10, num + 1, 10)
        betting += any(PVALUES["betting"](losses[:k], epsilon, ALPHA, num) <= ALPHA for k in looks)
        once += any(losses[:k].mean() < epsilon - 1.2816 * np.sqrt(epsilon * (1 - epsilon) / k) for k in looks)
    assert binomtest(betting, CALIBRATIONS, ALPHA, alternative="greater").pvalue > 1e-3
    assert binomtest(once, CALIBRATIONS, ALPHA, alternative="greater").pvalue < 1e-6


def streams(kind: str, rng: np.random.Generator, num: int, length: int) -> tuple[Floats, Floats]:
    """(losses, conditional means) of `num` streams, each [num, length]."""
    time = np.arange(length)
    if kind == "constant":
        means = np.full((num, length), 0.05)
    elif kind == "drifting":
        means = np.broadcast_to(0.02 + 0.2 * (time > length // 3) + 0.05 * np.sin(time / 40) ** 2, (num, length))
    else:
        # Means that answer to the past: after a loss the next token is safer, after none riskier.
        losses, means = np.zeros((num, length)), np.empty((num, length))
        for t in range(length):
            before = losses[:, t - 1] if t else np.zeros(num)
            means[:, t] = np.where(before > 0, 0.02, 0.12)
            losses[:, t] = rng.random(num) < means[:, t]
        return losses, means
    # Bernoulli losses are the hardest of all with these means.
    return (rng.random((num, length)) < means).astype(float), means


@pytest.mark.parametrize("kind", ["constant", "drifting", "answering"])
def test_the_running_bound_covers_at_every_moment_of_most_streams(kind: str) -> None:
    # Power: 2,000 streams; a true miss rate of 1.35 alpha on either side is caught with probability above 99%.
    rng = np.random.default_rng(17)
    num, length, alpha = 2_000, 1_000, 0.1
    losses, means = streams(kind, rng, num, length)
    average = means.cumsum(axis=1) / np.arange(1, length + 1)
    above, below = covered_paths(losses, average, alpha)
    for missed in (above, below):
        assert binomtest(int(missed.sum()), num, alpha, alternative="greater").pvalue > 1e-3
    if kind == "constant":
        # A fixed-time bound looked at every step would miss far more: the test would notice.
        spread = np.sqrt(0.05 * 0.95 / np.arange(1, length + 1))
        naive = (losses.cumsum(axis=1) / np.arange(1, length + 1) + 1.2816 * spread < average).any(axis=1)
        assert binomtest(int(naive.sum()), num, alpha, alternative="greater").pvalue < 1e-6


def covered_paths(losses: Floats, average: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Whether each stream's upper (lower) bound ever fell on the wrong side of the running average of means.

    The bound fails at t exactly if the mixture capital at the true sum of means exceeds 1/alpha, so the capital is
    compared for all streams at once; the last step is compared with RunningBound itself.
    """
    num, length = losses.shape
    bets = 0.9 / 1.8 ** np.arange(12)
    up, down = np.zeros((2, num, len(bets)))
    above, below = np.zeros((2, num), bool)
    for t in range(length):
        up += np.log1p(-np.outer(losses[:, t], bets))
        down += np.log1p(np.outer(losses[:, t], bets))
        total = average[:, t] * (t + 1)
        above |= np.exp(up + np.outer(total, bets)).mean(axis=1) > 1 / alpha
        below |= np.exp(down - np.outer(total, bets)).mean(axis=1) > 1 / alpha
    for row in range(0, num, 100):
        bound = RunningBound(alpha)
        bound.update(losses[row])
        total = average[row, -1] * length
        assert (bound.upper < average[row, -1]) == bool(np.exp(up[row] + total * bets).mean() > 1 / alpha)
        assert (bound.lower > average[row, -1]) == bool(np.exp(down[row] - total * bets).mean() > 1 / alpha)
    return above, below
