"""Losses of a text: within their range for sure, and never from tokens nobody looked at."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprinter.certify.journal import Measurement
from sprinter.certify.risks import RISKS, Aim, Frame, losses_of, risk_named
from sprinter.certify.sample import Sample
from sprinter.core.records import Budget, Counters, Generation, Token
from sprinter.core.sampling import Sampling
from sprinter.errors import ConfigError, DataError
from sprinter.observers.audit import Audit


def written(num: int = 3, audited: int = 3) -> tuple[Generation, Audit]:
    tokens = tuple(Token(n, "x", "vouched", 0.9) for n in range(num))
    audit = Audit()
    audit.tokens = list(range(audited))
    audit.tv_losses, audit.atypical = [0.1] * audited, [True, *[False] * (audited - 1)]
    audit.excess, audit.deficits = [0.05] * audited, [0.5] * audited
    return Generation("p", "the cat sat", "sprinter", 0.8, tokens, "length", 3, 1.0, 0.1, Counters(), None), audit


def test_a_loss_is_a_value_a_token_or_one_a_text() -> None:
    losses = losses_of(*written(), "the cat sat", [7, 7, 7, 7, 7])
    assert losses["tv"] == [0.1] * 3
    assert losses["atypical"] == [1.0, 0.0, 0.0]
    assert losses["repeated"] == [-0.5]
    assert losses["rouge"] == [0.0]
    assert not {"rouge", "repeated"} & losses_of(*written()).keys()


def test_tokens_nobody_looked_at_are_refused_and_those_behind_the_end_left_out() -> None:
    with pytest.raises(DataError, match="2 tokens were never audited"):
        losses_of(*written(3, 1))
    assert len(losses_of(*written(2, 3))["tv"]) == 2


def test_an_excess_that_is_not_known_is_no_loss() -> None:
    made, audit = written()
    audit.excess[1] = math.nan
    assert "excess" not in losses_of(made, audit)


def test_an_unknown_loss_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(ConfigError, match="tv, atypical, excess, deficit, repeated, rouge"):
        risk_named("bleu")


def test_a_percent_for_a_share_is_named() -> None:
    with pytest.raises(ConfigError, match=r"level of atypical is 2, but .* 2% is 0.02"):
        Aim("atypical", 2)
    assert Aim("deficit", 2.0).epsilon == 2.0


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=12), min_size=1, max_size=6),
    st.floats(0.01, 0.9),
    st.floats(0.5, 12),
)
def test_no_text_within_its_budget_ever_leaves_the_range(texts: list[list[float]], level: float, total: float) -> None:
    frame = Frame(12, 3, budget=Budget(total))
    rows = []
    for text in texts:
        kept, spent = [], 0.0
        for loss in text:
            kept.append(loss if spent + loss <= total else 0.0)
            spent += kept[-1]
        rows.append(Measurement({"tv": kept}, len(kept), 1))
    sample = Sample.of("tv", rows, frame)
    values = sample.sums / np.array(frame.lengths) + level * (1 - sample.tokens / np.array(frame.lengths))
    most = [frame.spread(RISKS["tv"], n)[1] for n in frame.lengths]
    assert (values <= np.array(most) + level * (1 - np.array(most)) + 1e-9).all()
    units, levels = sample.units(level)
    assert ((units >= 0) & (units <= 1)).all()
    assert ((levels > 0) & (levels < 1)).all()


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 8)), min_size=2, max_size=20), st.floats(0.02, 0.9))
def test_the_mean_on_the_scale_is_below_the_level_exactly_if_that_over_all_tokens_is(
    texts: list[tuple[float, int]], level: float
) -> None:
    rows = [Measurement({"tv": [loss] * count}, count, 1) for loss, count in texts]
    sample = Sample.of("tv", rows, Frame(8, 8))
    units, levels = sample.units(level)
    assert np.sign(round(float(units.mean() - levels[0]), 9)) == np.sign(
        round(float((sample.sums.sum() - level * sample.tokens.sum()) / len(rows) / 8), 9)
    )


def test_ranges_follow_from_sampling_and_budget() -> None:
    tv, atypical, excess, deficit = (RISKS[name] for name in ("tv", "atypical", "excess", "deficit"))
    greedy = Frame.of(64, Sampling(0.0), Budget(16.0, 4.0))
    assert [greedy.spread(tv, n)[1] for n in (8, 16, 64)] == [1.0, 1.0, 0.25]
    assert greedy.spread(atypical, 64) == (0.0, 4 / 64)
    assert greedy.spread(excess, 64) == (0.0, 4 / 64)
    assert greedy.spread(deficit, 64)[0] == 0.0
    warm = Frame.of(64, Sampling(1.0), Budget(16.0))
    assert warm.spread(atypical, 64) == (0.0, 1.0)  # the target's own atypical tokens are in no budget
    assert warm.spread(excess, 64) == (-0.25, 0.25)
    # A penalty can make the target itself atypical.
    assert Frame.of(64, Sampling(0.0, repetition_penalty=1.5), Budget(16.0)).spread(atypical, 64) == (0.0, 1.0)
    assert Frame.of(64, Sampling(1.0), Budget()).lengths == tuple(range(8, 65))
    assert Frame.of(5, Sampling(1.0), Budget()).lengths == (5,)
