"""The planner says what pays, keeps within the stated loss, and says so when nothing pays."""

import itertools

import numpy as np
import pytest

from sprinter.errors import ConfigError
from sprinter.theory.candidates import Candidate, Grid, law_outcome, trace_outcome
from sprinter.theory.costs import Costs, WidthCost, best_draft_length, exact_seconds_per_token
from sprinter.theory.planner import Hypothetical, pareto, parse_hypothetical, plan_hypothetical, plan_recorded
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import Rows, independent_rows
from sprinter.theory.token_law import TokenLaw, binormal_law

PAIR = Hypothetical(c=0.08, alpha=0.7, auc=0.85)
COSTS = Costs(0.08, 0.0, WidthCost((1,), (1.0,)))


def test_plan_keeps_within_the_stated_loss_and_gains_with_it():
    plans = [plan_hypothetical(PAIR, max_tv) for max_tv in (0.0, 0.05, 0.3)]
    for plan in plans:
        assert plan.best.loss <= plan.max_tv + 1e-12
        assert plan.interval is not None
        assert plan.interval.low <= plan.best.speedup <= plan.interval.high
    speeds = [plan.best.speedup for plan in plans]
    assert speeds == sorted(speeds)
    assert speeds[-1] > 1.5 * speeds[0]


def test_plan_without_loss_is_exact_decoding_or_lossless_dynamic():
    plan = plan_hypothetical(PAIR, 0.0)
    assert plan.best.candidate.method in ("exact", "lossless")
    assert plan.best.speedup >= plan.exact.speedup


def test_best_exact_of_the_plan_is_the_best_draft_length():
    plan = plan_hypothetical(PAIR, 0.05)
    best = best_draft_length(0.7, COSTS, longest=20)
    assert plan.exact.candidate.setting == Setting.exact(best)
    assert plan.exact.seconds_per_token == pytest.approx(exact_seconds_per_token(0.7, best, COSTS))


def test_plan_says_dont_bother_when_the_drafter_is_too_dear():
    plan = plan_hypothetical(Hypothetical(c=0.9, alpha=0.3, auc=0.6), 0.05)
    assert plan.best.candidate.method == "target"
    assert plan.best.speedup == 1.0
    assert plan.verdict.startswith("Don't bother")


def test_a_growing_target_cost_shortens_the_best_draft():
    flat = plan_hypothetical(PAIR, 0.0).exact.candidate.setting
    steep = plan_hypothetical(Hypothetical(0.08, 0.7, 0.85, growth=0.2), 0.0).exact.candidate.setting
    assert steep.cap < flat.cap


def test_frontier_gets_faster_only_with_more_loss():
    frontier = plan_hypothetical(PAIR, 0.05).frontier
    assert len(frontier) > 5
    for slower, faster in itertools.pairwise(frontier):
        assert slower.loss < faster.loss and slower.speedup < faster.speedup
    assert pareto(frontier) == frontier


def test_recorded_plan_agrees_with_the_closed_forms_on_independent_rows():
    rng = np.random.default_rng(3)
    law = binormal_law(0.7, 0.85)
    traces = [independent_rows(law, 60, rng) for _ in range(60)]
    pooled = TokenLaw.from_rows(np.concatenate([t.accept for t in traces]), np.concatenate([t.score for t in traces]))
    for candidate in (
        Candidate("exact", Setting.exact(4)),
        Candidate("sprinter", Setting(0.6, 1.0, 10)),
        Candidate("lookahead", Setting(0.7, 0.35, 10)),
    ):
        replayed, closed = trace_outcome(candidate, traces, COSTS), law_outcome(candidate, pooled, COSTS)
        assert replayed.speedup == pytest.approx(closed.speedup, rel=0.03)
        assert replayed.loss == pytest.approx(closed.loss, abs=0.01)


def test_recorded_plan_has_bootstrap_intervals_around_its_answer():
    rng = np.random.default_rng(4)
    traces = [independent_rows(binormal_law(0.7, 0.85), 40, rng) for _ in range(15)]
    plan = plan_recorded(traces, COSTS, 0.05, rng, Grid(max_draft=8, num_thresholds=6, lookaheads=(0.35,)))
    assert plan.interval is not None and plan.loss_interval is not None
    assert plan.interval.low < plan.best.speedup < plan.interval.high
    assert plan.loss_interval.low <= plan.best.loss <= plan.loss_interval.high
    assert "15 prompts" in plan.interval.meaning


def test_bootstrap_interval_is_wider_where_prompts_differ():
    rng = np.random.default_rng(8)
    grid = Grid(max_draft=4, num_thresholds=3, lookaheads=(0.35,))
    score = np.full(40, 0.5)
    alike = [Rows((rng.random(40) < 0.6).astype(float), score) for _ in range(20)]
    apart = [Rows((rng.random(40) < level).astype(float), score) for level in [0.2] * 10 + [1.0] * 10]
    widths = []
    for traces in (alike, apart):
        interval = plan_recorded(traces, COSTS, 0.0, rng, grid).interval
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert widths[1] > 1.5 * widths[0]


def test_recorded_plan_survives_rows_of_one_label():
    traces = [Rows(np.ones(30), np.full(30, 0.9))] * 3
    plan = plan_recorded(traces, COSTS, 0.05, np.random.default_rng(0))
    assert plan.auc is None
    assert plan.alpha == pytest.approx(1.0)
    assert plan.best.speedup > 5


def test_hypothetical_reads_its_keys():
    assert parse_hypothetical(" c=0.08, alpha=0.7 ,auc=0.85,growth=0.02 ") == Hypothetical(0.08, 0.7, 0.85, growth=0.02)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("c=0.1,alfa=0.5,auc=0.9", "alfa"),
        ("c=0.1,alpha=0.5", "auc"),
        ("c=0.1,alpha=0.5,auc=high", "auc"),
        ("c=0.1,c=0.2,alpha=0.5,auc=0.9", "twice"),
        ("c=0.1,alpha=1.5,auc=0.9", "alpha"),
        ("c=0.1,alpha=0.5,auc=0.4", "auc"),
        ("c=nan,alpha=0.5,auc=0.8", "c is nan"),
        ("", "unknown key"),
    ],
)
def test_a_wrong_hypothetical_is_refused_by_name(text, named):
    with pytest.raises(ConfigError, match=named):
        parse_hypothetical(text)


@pytest.mark.parametrize("max_tv", [-0.1, 1.5, float("nan")])
def test_a_loss_outside_the_unit_interval_is_refused(max_tv):
    with pytest.raises(ConfigError, match="max_tv"):
        plan_hypothetical(PAIR, max_tv)


def test_a_grid_that_holds_nothing_is_refused():
    with pytest.raises(ConfigError):
        Grid(max_draft=0)
    with pytest.raises(ConfigError):
        Grid(lookaheads=(1.0,))
