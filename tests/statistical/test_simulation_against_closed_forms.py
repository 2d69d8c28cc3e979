"""Where tokens are independent, the Monte Carlo agrees with the closed forms within 4 standard errors."""

import math

import numpy as np
import pytest

from sprinter.errors import DataError
from sprinter.theory.closed_forms import exact_round, lookahead_round, lossless_round, sprinter_round
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import independent_rows, ratio_estimate, simulate, sticky_rows, summarise
from sprinter.theory.token_law import TokenLaw, binormal_law

BINORMAL = binormal_law(0.7, 0.85)
SOFT = TokenLaw.from_rows([1.0, 0.9, 0.6, 0.3, 0.0, 0.8], [1.0, 0.7, 0.8, 0.2, 0.4, 0.5])


def capped_keep_prob(law, threshold):
    vouched = law.score >= threshold
    return float(np.average(law.accept[vouched], weights=law.weights[vouched]))


CASES = {
    "sprinter": (BINORMAL, Setting(0.5, 1.0, 20), sprinter_round(BINORMAL.split(0.5), 20)),
    "sprinter on soft labels": (SOFT, Setting(0.65, 1.0, 6), sprinter_round(SOFT.split(0.65), 6)),
    "paper preset": (
        SOFT,
        Setting(0.3, 1.0, 3, test_last=True),
        sprinter_round(SOFT.split(0.3), 3, capped_keep_prob(SOFT, 0.3)),
    ),
    "lookahead": (BINORMAL, Setting(0.6, 0.2, 12), lookahead_round(BINORMAL, 0.6, 0.2, 12, bins=4000)),
    "exact": (BINORMAL, Setting.exact(5), exact_round(BINORMAL.alpha, 5)),
    "exact on soft labels": (SOFT, Setting.exact(3), exact_round(SOFT.alpha, 3)),
    "lossless": (BINORMAL, Setting.lossless(0.3), lossless_round(BINORMAL, 0.3, 20, bins=4000)),
}


@pytest.mark.parametrize("case", CASES)
def test_simulated_rounds_agree_with_their_closed_form(case):
    law, setting, expected = CASES[case]
    rng = np.random.default_rng(2024)
    found = summarise(simulate(independent_rows(law, 40_000, rng), setting, rng))
    assert abs(found.drafted.deviation(expected.drafted)) < 4
    assert abs(found.tokens.deviation(expected.tokens)) < 4
    assert abs(found.tested.deviation(expected.tested)) < 4
    assert abs(found.calls_per_token.deviation(expected.calls_per_token)) < 4
    assert abs(found.loss_per_token.deviation(expected.loss_per_token)) < 4
    # The error itself must be small, or agreement within 4 of them would say nothing.
    assert found.calls_per_token.standard_error < 0.015 * found.calls_per_token.value


def test_standard_errors_cover_the_truth_as_often_as_they_should():
    """Of 60 simulations, the share beyond 2 standard errors is near 5 %; more than 9 of 60 has chance below 1e-3."""
    law, setting, expected = CASES["sprinter on soft labels"]
    deviations = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = summarise(simulate(independent_rows(law, 3_000, rng), setting, rng))
        deviations.append(abs(found.calls_per_token.deviation(expected.calls_per_token)))
    assert sum(d > 2 for d in deviations) <= 9
    assert sum(d > 0.2 for d in deviations) >= 30


def test_sticky_rows_keep_every_single_rows_law():
    rng = np.random.default_rng(1)
    rows = sticky_rows(SOFT, 0.6, 60_000, rng)
    # Neighbours repeat, so the error of a mean is that of (1 - 0.6) / (1 + 0.6) as many rows.
    error = np.std(rows.accept) / math.sqrt(60_000 * 0.4 / 1.6)
    assert abs(rows.accept.mean() - SOFT.alpha) < 4 * error
    assert np.corrcoef(rows.accept[:-1], rows.accept[1:])[0, 1] == pytest.approx(0.6, abs=0.03)


def test_without_stickiness_the_closed_form_holds_and_with_it_the_gap_shows():
    law, setting, expected = CASES["exact"]
    gaps = []
    for stay in (0.0, 0.6):
        rng = np.random.default_rng(7)
        found = summarise(simulate(sticky_rows(law, stay, 60_000, rng), setting, rng)).calls_per_token
        gaps.append(found.deviation(expected.calls_per_token))
    assert abs(gaps[0]) < 4
    assert abs(gaps[1]) > 8


def test_too_few_rows_or_rounds_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError):
        simulate(independent_rows(SOFT, 5, rng), Setting(0.5, 1.0, 20), rng)
    with pytest.raises(DataError):
        ratio_estimate(np.ones(10), np.ones(10), batches=20)
