"""Coverage of every kind of claim, 2,000 calibrations each, a true risk a hair above the level; and of the mistakes.

Every calibration is a column of one table, so that a test costs a second. A claim is wrong as often as its null is
rejected; with 2,000 calibrations a true rate of 1.3 alpha is caught with probability above 99%.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from sprinter.bounds import betting_pvalue, betting_pvalues
from sprinter.certify.calibrate import Plan
from sprinter.certify.journal import Measurement
from sprinter.certify.risks import RISKS, Aim, Frame
from sprinter.certify.sample import Sample
from sprinter.core.records import Budget

Floats = NDArray[np.float64]
RUNS = 2_000
ALPHA = 0.05
PROMPTS = 200


def wrong(units: Floats, level: float) -> int:
    """How many of the calibrations (columns) reject a level that is a little below the truth."""
    return int((betting_pvalues(units, np.full(units.shape[1], level), ALPHA, len(units)) <= ALPHA).sum())


def keeps_alpha(count: int) -> bool:
    return bool(binomtest(count, RUNS, ALPHA, alternative="greater").pvalue > 1e-3)


def breaks_alpha(count: int) -> bool:
    return bool(binomtest(count, RUNS, ALPHA, alternative="greater").pvalue < 1e-6)


def of(sums: Floats, tokens: Floats, frame: Frame, level: float, loss: str = "tv") -> tuple[Floats, float]:
    """(units [prompts, runs], level) of texts of one length, by the code that certificates are made with."""
    columns = Sample(RISKS[loss], frame.lengths, sums.reshape(-1, 1), tokens.reshape(-1, 1), frame)
    units, levels = columns.units(level)
    return units.reshape(sums.shape), float(levels[0])


def test_columns_are_single_p_values() -> None:
    rng = np.random.default_rng(0)
    table, levels = rng.random((50, 7)) ** 3, np.linspace(0.1, 0.6, 7)
    for column, p in enumerate(betting_pvalues(table, levels, ALPHA, 60)):
        assert p == pytest.approx(betting_pvalue(table[:, column], levels[column], ALPHA, 60), rel=1e-12)


def ending_texts(rng: np.random.Generator, runs: int = RUNS) -> tuple[Floats, Floats]:
    """Texts that end at once with chance 0.98, and then lose little; (sums, tokens) over 64 tokens, [prompts, runs]."""
    ends = rng.random((PROMPTS, runs)) < 0.6
    tokens = np.where(ends, 1.0, 64.0)
    rate = rng.beta(2, 8, (PROMPTS, runs))
    return np.where(ends, 0.0, np.floor(rate * 65)), tokens


def test_sums_over_tokens_hold_where_the_length_of_a_text_hangs_on_what_was_drawn() -> None:
    rng = np.random.default_rng(1)
    sums, tokens = ending_texts(rng)
    many = ending_texts(rng, 20_000)
    truth = many[0].sum() / many[1].sum()
    level = 0.999 * truth
    frame = Frame(64, 64)
    assert keeps_alpha(wrong(*of(sums, tokens, frame, level)))
    # The mean over texts of each text's own mean, as certificates had it before, is another number.
    assert (many[0] / many[1]).mean() < 0.6 * truth
    assert wrong(np.clip(sums / tokens, 0, 1), level) > 0.99 * RUNS
    # And the claim can be proven where it is true.
    assert wrong(*of(sums, tokens, frame, 1.35 * truth)) > 0.9 * RUNS


def test_every_length_at_once_holds_where_texts_lose_most_at_their_beginning() -> None:
    rng = np.random.default_rng(2)
    lengths, rates = (8, 16, 32, 64), np.repeat([0.12, 0.08, 0.04, 0.02], [8, 8, 16, 32])
    level, runs = 0.999 * 0.12, RUNS
    sums, found = np.zeros((PROMPTS, runs)), []
    for place, rate in enumerate(rates, start=1):
        sums += rng.random((PROMPTS, runs), dtype=np.float32) < rate
        if place in lengths:
            found.append(betting_pvalues(sums / place, np.full(runs, level), ALPHA, PROMPTS))
    assert keeps_alpha(int((np.max(found, axis=0) <= ALPHA).sum()))
    # At the last length alone the level seems proven, and about shorter texts it is false.
    assert int((found[-1] <= ALPHA).sum()) == runs
    # The code that certificates are made with takes every length there is.
    losses = (rng.random((PROMPTS, 64)) < rates).astype(float)
    rows = [Measurement({"tv": row.tolist()}, 64, 1) for row in losses]
    frame = Frame(64, 8)
    units, levels = Sample.of("tv", rows, frame).units(level)
    p = betting_pvalues(units, levels, ALPHA, PROMPTS)
    assert len(p) == 57
    assert Plan((0.5,), (Aim("tv", level),), PROMPTS, PROMPTS, ALPHA, frame=frame).pvalue(
        Aim("tv", level), Sample.of("tv", rows, frame)
    ) == pytest.approx(p.max())


def test_a_budget_s_range_holds_and_proves_what_200_prompts_could_not_before() -> None:
    rng = np.random.default_rng(3)
    budget, length = 4.0, 64

    def drawn(rate: float, held: bool) -> Floats:
        heavy = rng.random((PROMPTS, RUNS)) < rate * length / (budget if held else length)
        return np.where(heavy, budget if held else float(length), 0.0)

    frame, free = Frame(length, length, budget=Budget(budget)), Frame(length, length)
    full = np.full((PROMPTS, RUNS), float(length))
    assert keeps_alpha(wrong(*of(drawn(0.01, True), full, frame, 0.00999)))
    # True mean half the level: with the budget's range it is proven, on [0, 1] no 200 prompts could.
    half = drawn(0.005, True)
    assert wrong(*of(half, full, frame, 0.01)) > 0.8 * RUNS
    assert wrong(*of(half, full, free, 0.01)) == 0
    # The narrow range for texts that nothing holds to it would be wrong.
    assert breaks_alpha(wrong(*of(drawn(0.01, False), full, frame, 0.00999)))


@pytest.mark.parametrize("held", [False, True])
def test_excess_by_the_residual_holds_with_losses_of_both_signs(held: bool) -> None:
    rng = np.random.default_rng(4)
    length, most = 32, 4.0 if held else 32.0
    frame = Frame(length, length, budget=Budget(most) if held else Budget())
    up = rng.random((PROMPTS, RUNS)) < 0.55
    sums = np.where(up, most, -most) * rng.random((PROMPTS, RUNS)) ** 2
    truth = 0.1 * most / 3 / length
    tokens = np.full_like(sums, float(length))
    assert keeps_alpha(wrong(*of(sums, tokens, frame, 0.99 * truth, "excess")))
    flat = np.abs(sums)  # without its sign the loss is another, and the level would seem far away
    assert wrong(*of(flat, tokens, frame, 0.99 * truth, "excess")) == 0


def two_certificates(rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each of two calibrations proves a level that is false for both: 98% of prompts lose nothing."""
    one, other = ((rng.random((300, RUNS)) < 0.0201).astype(float) for _ in range(2))
    proven = [betting_pvalues(t, np.full(RUNS, 0.02), ALPHA, 300) <= ALPHA for t in (one, other)]
    return proven[0], proven[1]


def test_choosing_among_certificates_by_a_pilot_keeps_alpha_and_by_feasibility_does_not() -> None:
    first, second = two_certificates(np.random.default_rng(5))
    assert keeps_alpha(int(first.sum()))
    assert breaks_alpha(int((first | second).sum()))
    # With room for both the stated confidence is 1 - 2 alpha, and that holds.
    assert binomtest(int((first | second).sum()), RUNS, 2 * ALPHA, alternative="greater").pvalue > 1e-3


def test_the_mistakes_that_the_command_refuses_are_mistakes() -> None:
    rng = np.random.default_rng(6)
    level = 0.0499
    once = (rng.random((40, RUNS)) < 0.05).astype(float)
    copies = np.repeat(once, 5, axis=0)[rng.permutation(PROMPTS)]
    assert breaks_alpha(wrong(copies, level))
    # Every prompt in the order of its source, where the first are easier.
    drift = (rng.random((PROMPTS, RUNS)) < np.linspace(0.0, 0.1, PROMPTS)[:, None]).astype(float)
    assert breaks_alpha(wrong(drift, level))
    assert keeps_alpha(wrong(rng.permuted(drift, axis=0), level))
    # The best of five seeds.
    draws = [(rng.random((300, RUNS)) < 0.0201).astype(float) for _ in range(5)]
    tries = [betting_pvalues(draw, np.full(RUNS, 0.02), ALPHA, 300) for draw in draws]
    assert breaks_alpha(int((np.min(tries, axis=0) <= ALPHA).sum()))
