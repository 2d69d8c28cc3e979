"""The replay sums out every coin: it equals walking all outcomes, and the simulation within its error."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprinter.errors import ConfigError, DataError
from sprinter.theory.candidates import Candidate, trace_outcome
from sprinter.theory.costs import Costs, WidthCost
from sprinter.theory.replay import replay
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import Rows, recorded_rows, simulate, summarise


def walk(rows, setting):
    """Expected (tokens, calls, drafted, tested, loss) until all rows are passed, outcome by outcome."""
    count = len(rows.accept)
    totals = np.zeros(5)

    def go(start, chance):
        if start >= count:
            totals[0] += chance * start
            return
        survival, length, doubtful = 1.0, 0, []
        while length < setting.cap and not (doubtful and survival <= setting.lookahead):
            place = (start + length) % count
            length += 1
            last = setting.test_last and length == setting.cap
            if rows.score[place] < setting.threshold or last:
                doubtful.append(length - 1)
                survival *= rows.score[place]
        totals[1:4] += chance * np.array([1.0, length, len(doubtful)])
        alive = chance
        for step in range(length):
            accept = rows.accept[(start + step) % count]
            if step not in doubtful:
                totals[4] += alive * (1 - accept)
            else:
                if accept < 1.0:
                    go(start + step + 1, alive * (1 - accept))
                alive *= accept
        if alive > 0.0:
            go(start + length + bool(doubtful), alive)

    go(0, 1.0)
    return totals


@st.composite
def short_rows(draw):
    count = draw(st.integers(1, 6))
    chance = st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0])
    return Rows(
        np.array(draw(st.lists(chance, min_size=count, max_size=count))),
        np.array(draw(st.lists(chance, min_size=count, max_size=count))),
    )


@settings(max_examples=60)
@given(
    short_rows(),
    st.sampled_from(
        [
            Setting(0.5, 1.0, 4),
            Setting(0.6, 0.25, 3),  # 0.5 * 0.5 meets the bound exactly: the round stops
            Setting(math.inf, 1.0, 3),
            Setting.exact(3),
            Setting.lossless(0.4, 4),
            Setting(0.2, 1.0, 2, True),
        ]
    ),
)
def test_replay_equals_walking_every_outcome(rows, setting):
    totals = replay([rows], setting)
    found = [totals.tokens[0], totals.calls[0], totals.drafted[0], totals.tested[0], totals.loss[0]]
    assert found == pytest.approx(walk(rows, setting), abs=1e-10)
    assert totals.widths.sum() == pytest.approx(totals.calls[0])


def test_replay_of_prompts_agrees_with_the_simulation_of_the_same_prompts():
    rng = np.random.default_rng(11)
    # Long prompts of very different difficulty, so that what happens at their ends weighs little.
    traces = [
        Rows(rng.beta(8 * level, 8 * (1 - level), 400), rng.beta(6 * level, 6 * (1 - level), 400))
        for level in (0.3, 0.6, 0.9)
    ]
    setting = Setting(0.55, 0.3, 12)
    totals = replay(traces, setting)
    rounds = simulate(recorded_rows(traces, 60_000, rng), setting, rng)
    calls = summarise(rounds).calls_per_token
    assert abs(calls.deviation(totals.calls.sum() / totals.tokens.sum())) < 4


def test_replayed_seconds_price_each_call_by_its_width():
    rows = Rows(np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.9, 0.9, 0.1, 0.9]))
    costs = Costs(0.1, 0.01, WidthCost((1, 2, 4), (1.0, 1.5, 2.5)))
    totals = replay([rows], Setting(0.5, 1.0, 3))
    # Three drafted, the third fails and is replaced; then rows 3, 0, 1 are vouched for and only catch the target up.
    assert totals.tokens[0] == 6.0
    assert totals.seconds(costs, with_verifier=True)[0] == pytest.approx(2 * (3 * 0.11 + 2.5))
    assert totals.seconds(costs, with_verifier=False)[0] == pytest.approx(2 * (3 * 0.1 + 2.5))
    # Every emitted token has its price, and both models read the prompt once.
    whole = replace(costs, token_s=0.05, target_prompt_s=4.0, draft_prompt_s=1.0)
    assert totals.seconds(whole, with_verifier=False)[0] == pytest.approx(2 * (3 * 0.1 + 2.5) + 6 * 0.05 + 5.0)


def test_a_speed_up_counts_the_prompt_for_the_target_alone_as_well():
    rows = [Rows(np.array([1.0, 1.0, 1.0, 1.0]), np.array([0.1, 0.1, 0.1, 0.1]))] * 2
    costs = Costs(0.1, 0.0, WidthCost((1,), (1.0,)), token_s=0.05, target_prompt_s=4.0, draft_prompt_s=1.0)
    alone = trace_outcome(Candidate("target", None), rows, costs)
    assert alone.seconds_per_token == pytest.approx((4 * 1.05 + 4.0) / 4)
    exact = trace_outcome(Candidate("exact", Setting.exact(1)), rows, costs)
    # Two rounds of a drafted token and a bonus each.
    assert exact.seconds_per_token == pytest.approx((2 * 1.1 + 4 * 0.05 + 5.0) / 4)
    assert exact.speedup == pytest.approx(alone.seconds_per_token / exact.seconds_per_token)


def test_nothing_to_replay_is_refused():
    with pytest.raises(DataError):
        replay([], Setting(0.5))
    with pytest.raises(DataError):
        Rows(np.array([0.5]), np.array([]))
    with pytest.raises(ConfigError):
        Setting(0.5, lookahead=1.5)


def test_a_cost_of_its_own_is_what_vouching_adds_up() -> None:
    accept, score = np.array([1.0, 0.5, 0.0, 1.0]), np.array([0.9, 0.9, 0.1, 0.9])
    setting = Setting(0.5, 1.0, 2)
    plain = replay([Rows(accept, score)], setting)
    same = replay([Rows(accept, score, cost=1 - accept)], setting)
    own = replay([Rows(accept, score, cost=np.array([-0.2, 0.3, 9.0, 0.0]))], setting)
    assert plain.loss == pytest.approx(same.loss) and plain.tokens == pytest.approx(own.tokens)
    free = replay([Rows(accept, score, cost=np.zeros(4))], setting)
    assert free.loss == pytest.approx([0.0])
    # Row 2 is never vouched for, so what it would cost never counts.
    assert own.loss == pytest.approx(replay([Rows(accept, score, cost=np.array([-0.2, 0.3, 0.0, 0.0]))], setting).loss)
    with pytest.raises(DataError, match="one cost per position"):
        Rows(accept, score, cost=np.zeros(3))
