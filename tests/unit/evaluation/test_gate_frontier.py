"""The frontier: what it counts, its limits, and that its intervals are of prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sprinter.errors import ConfigError
from sprinter.evaluation.frontier import Sweep, Traces, fixed_lengths, frontier
from sprinter.evaluation.frontier_table import frontier_lines, goal_lines, goals, schedule_lines
from sprinter.evaluation.gates_plot import plot_gates
from sprinter.evaluation.schedules import budget_table, tuned_lookahead
from sprinter.theory.planner import parse_costs

COSTS = parse_costs("c=0.1,verifier=0.002")


def made_traces(num_prompts: int = 30, per_prompt: int = 24, seed: int = 0) -> Traces:
    rng = np.random.default_rng(seed)
    count = num_prompts * per_prompt
    accept = np.round(rng.beta(0.8, 0.4, count), 3)
    noisy = np.clip(accept + rng.normal(0, 0.2, count), 0, 1)
    names = ("verifier accept", "verifier typical", "paper", "confidence", "entropy", "margin")
    noise = (0.0, 0.1, 0.6, 0.3, 0.5, 0.5)
    scores = {n: np.clip(noisy + rng.normal(0, s, count), 0, 1) for n, s in zip(names, noise, strict=True)}
    typical = (rng.random(count) < accept).astype(float)
    return Traces(
        "greedy", np.repeat(np.arange(num_prompts), per_prompt), num_prompts, accept, typical, np.zeros(count), scores
    )


@pytest.fixture(scope="module")
def traces() -> Traces:
    return made_traces()


@pytest.fixture(scope="module")
def result(traces: Traces) -> dict[str, object]:
    found = frontier(traces, np.random.default_rng(0))
    found["budgets"] = budget_table(traces, "verifier accept", COSTS)
    found["lookahead"] = tuned_lookahead(traces, "verifier accept", COSTS, (0.05, 0.1))
    return found


def test_a_sweep_counts_by_hand() -> None:
    sweep = Sweep(np.array([0.9, 0.1, 0.5, 0.7]), np.array([0.0, 1.0, 0.4, 0.2]), np.zeros(4, np.int64))
    vouched, loss = sweep.curve()
    np.testing.assert_allclose(vouched, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(loss, [0, 0, 0.05, 0.15, 0.4])
    assert sweep.calls_at([0.05, 0.2, 1.0]) == pytest.approx([0.5, 0.25, 0.0])


def test_no_gate_passes_the_limit_or_the_oracle(traces: Traces, result: dict[str, dict[str, dict]]) -> None:
    oracle = result["gates"]["oracle"]["tv"]["calls_at"]
    for gate, found in result["gates"].items():
        for level, (calls, _, _) in found["tv"]["calls_at"].items():
            assert calls >= result["limit"][level] - 1e-9, gate
            assert calls >= oracle[level][0] - 1e-9, gate


def test_weighting_prompts_is_repeating_them(traces: Traces) -> None:
    score, loss = traces.scores["margin"], traces.losses["tv"]
    weights = np.zeros(traces.num_prompts)
    weights[[3, 7]] = (2, 1)
    rows = np.concatenate([np.flatnonzero(traces.prompt == p) for p in (3, 3, 7)])
    repeated = Sweep(score[rows], loss[rows], np.zeros(len(rows), np.int64))
    assert Sweep(score, loss, traces.prompt).calls_at([0.1], weights)[0] == pytest.approx(
        repeated.calls_at([0.1])[0], abs=2 / len(rows)
    )


def test_fixed_lengths_start_anew_in_each_prompt(traces: Traces) -> None:
    table = fixed_lengths(traces)
    assert table[0]["calls"] == 1.0 and table[0]["tv"] == 0.0
    assert table[23 - 19]["calls"] == pytest.approx(4 / 24)  # each fifth of 24 tokens


def test_a_smaller_budget_loses_less_and_never_beats_the_oracle(
    traces: Traces, result: dict[str, list[dict[str, float]]]
) -> None:
    oracle = Sweep(traces.accept, traces.losses["tv"], traces.prompt)
    losses = [row["tv"] for row in result["budgets"]]
    assert losses == sorted(losses)
    for row in result["budgets"]:
        assert row["calls"] >= oracle.calls_at([row["tv"]])[0] - 1e-9
    for row in result["lookahead"]:
        assert row["lookahead"]["tv"] <= row["tv"]


def test_tables_and_plots_come_out(result: dict[str, object], tmp_path: Path) -> None:
    text = "\n".join(frontier_lines(result) + schedule_lines(result) + goal_lines(goals([result], *_GATES)))
    assert "| oracle |" in text and "AUC for typical" in text
    pytest.importorskip("matplotlib")
    for name in ("a.png", "a.svg"):
        plot_gates([result], tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        plot_gates([result], tmp_path / "a.pdf")


_GATES = ("verifier accept", "verifier typical")
