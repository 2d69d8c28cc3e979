"""The bound and the cap of the cost model are within a few percent of the best, by formula and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sprinter.errors import ConfigError
from sprinter.theory.closed_forms import lookahead_round
from sprinter.theory.costs import Costs, WidthCost, seconds_per_token
from sprinter.theory.lookahead import survival_bound, tune_lookahead, usual_costs, usual_lookahead
from sprinter.theory.replay import replay
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import Rows, independent_rows, simulate, sticky_rows
from sprinter.theory.token_law import TokenLaw, binormal_law

BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CAPS = (4, 8, 14, 20)
COSTS = {
    "a bent width": Costs(0.25, 0.06, WidthCost((1, 8, 16), (2.9, 4.8, 10.1))),
    "a flat width": Costs(0.1, 0.005, WidthCost((1,), (1.0,))),
    "a straight width": usual_costs(0.14, 0.1),
    "a dear draft": usual_costs(0.5, 0.1),
}


def cost_of(law: TokenLaw, threshold: float, bound: float, cap: int, costs: Costs) -> float:
    return seconds_per_token(lookahead_round(law, threshold, bound, cap), costs, with_verifier=True)


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS)
@pytest.mark.parametrize("alpha", [0.55, 0.8])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85, math.inf])
def test_the_tuned_setting_is_within_a_percent_of_the_best_of_a_grid(
    costs: Costs, alpha: float, threshold: float
) -> None:
    law = binormal_law(alpha, 0.84, cells=100)
    tuned = tune_lookahead(law, threshold, costs)
    best = min(cost_of(law, threshold, bound, cap, costs) for bound in BOUNDS for cap in CAPS)
    assert cost_of(law, threshold, tuned.lookahead, tuned.cap, costs) <= 1.01 * best
    assert tuned.seconds_per_token <= 1.001 * cost_of(law, threshold, 1.0, 20, costs)


def simulated_cost(rows: Rows, setting: Setting, costs: Costs) -> float:
    rounds = simulate(rows, setting, np.random.default_rng(1))  # [num_rounds, 4]
    drafted, tokens = rounds[:, 0], rounds[:, 1]
    seconds = drafted * (costs.draft_s + costs.verifier_s) + costs.target_s.at(drafted + 1)
    return float(seconds.sum() / tokens.sum()) + costs.token_s


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS)
@pytest.mark.parametrize("stay", [0.0, 0.4])
def test_the_simulated_loop_agrees_and_dependence_costs_few_percent(costs: Costs, stay: float) -> None:
    law = binormal_law(0.65, 0.84, cells=100)
    rng = np.random.default_rng(0)
    rows = sticky_rows(law, stay, 40_000, rng) if stay else independent_rows(law, 40_000, rng)
    tuned = tune_lookahead(law, 0.8, costs)
    best = min(simulated_cost(rows, Setting(0.8, bound, cap), costs) for bound in BOUNDS for cap in (8, 20))
    assert simulated_cost(rows, Setting(0.8, tuned.lookahead, tuned.cap), costs) <= 1.04 * best


@pytest.mark.parametrize("alpha", [0.55, 0.65, 0.8])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85])
@pytest.mark.parametrize("costs", [COSTS["a bent width"], COSTS["a straight width"]], ids=["bent", "straight"])
def test_the_usual_bound_is_near_the_best_and_no_worse_than_stopping_at_the_first_doubt(
    alpha: float, threshold: float, costs: Costs
) -> None:
    law = binormal_law(alpha, 0.84, cells=100)
    bound, cap = usual_lookahead(0.137, 0.1)
    own = cost_of(law, threshold, bound, cap, costs)
    assert own <= 1.03 * min(cost_of(law, threshold, h, cap, costs) for h in BOUNDS)
    assert own <= 1.03 * cost_of(law, threshold, 1.0, cap, costs)


def test_a_dearer_step_raises_the_bound_and_a_hopeless_one_stops_at_the_first_doubt() -> None:
    assert survival_bound(0.2, 0.8, 1.0) == pytest.approx(0.25)
    assert survival_bound(0.4, 0.8, 1.0) > survival_bound(0.2, 0.8, 1.0)
    assert survival_bound(2.0, 0.8, 1.0) == survival_bound(0.1, 0.0, 1.0) == 1.0
    bounds = [usual_lookahead(share, 0.1)[0] for share in (0.02, 0.1, 0.2, 0.6)]
    assert bounds == sorted(bounds) and bounds[0] < 0.5 and bounds[-1] == 1.0


def test_a_call_that_grows_too_dear_with_its_width_caps_the_draft() -> None:
    steep = Costs(0.1, 0.0, WidthCost((1, 5, 6), (1.0, 1.0, 4.0)))
    assert tune_lookahead(binormal_law(0.7, 0.84, cells=100), 0.6, steep).cap == 4


@pytest.mark.parametrize("share, growth", [(0.0, 0.1), (math.inf, 0.1), (0.1, -0.1)])
def test_impossible_costs_are_refused(share: float, growth: float) -> None:
    with pytest.raises(ConfigError, match="no costs"):
        usual_lookahead(share, growth)
    with pytest.raises(ConfigError, match="max_draft"):
        tune_lookahead(binormal_law(0.7, 0.84, cells=100), 0.5, usual_costs(0.1, 0.1), 0)


def test_survival_follows_the_predicted_acceptance_not_the_score_that_vouches() -> None:
    rows = Rows(np.ones(6), np.full(6, 0.9), np.full(6, 0.5))
    ahead = Setting(0.95, 0.6, 4)  # nothing is vouched for; by the scores a draft would hold 4 tokens, really 1
    assert replay([rows], ahead).drafted[0] / replay([rows], ahead).calls[0] == pytest.approx(1.0)
    assert (
        simulate(
            Rows(*[np.tile(c, 9) for c in (rows.accept, rows.score, rows.survival)]), ahead, np.random.default_rng(0)
        )[:, 0].max()
        == 1
    )
