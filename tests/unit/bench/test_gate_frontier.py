"""The frontier: what it counts, its limits, and that its intervals are of prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare_default_pair import measured
from sprinter.bench.frontier import Sweep, Traces, fixed_lengths, frontier
from sprinter.bench.frontier_table import frontier_lines, goal_lines, goals, schedule_lines
from sprinter.bench.gates_plot import plot_gates
from sprinter.bench.methods import Bench, decoding_of, parse_specs
from sprinter.bench.schedules import budget_table, tuned
from sprinter.core.sampling import Sampling
from sprinter.errors import ConfigError
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
    found["tuned"] = tuned(traces, "verifier accept", COSTS, "tv", (0.05, 0.1))
    for gate in ("verifier accept", "verifier typical"):
        found["tuned"] += tuned(traces, gate, COSTS, "atypical", (0.02, 0.05))
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


def test_tuned_settings_stay_within_their_level_of_their_own_loss(result: dict[str, list[dict]]) -> None:
    rows = {(row["loss"], row["scorer"], row["level"]): row for row in result["tuned"]}
    assert set(rows) == {
        *(("tv", "accept", level) for level in (0.05, 0.1)),
        *(("atypical", scorer, level) for scorer in ("accept", "typical") for level in (0.02, 0.05)),
    }
    for (_, _, level), row in rows.items():
        for method in ("sprinter", "lookahead"):
            assert row[method]["loss"] <= level
    # The traces are typical as often as accepted, so one threshold loses as much by either count.
    assert rows["atypical", "accept", 0.05]["sprinter"]["threshold"] == pytest.approx(
        rows["tv", "accept", 0.05]["sprinter"]["threshold"], abs=0.1
    )


def test_the_targets_own_atypical_tokens_are_not_held_against_a_gate(traces: Traces) -> None:
    own = np.full(len(traces.accept), 0.24)
    lenient = replace(traces, own_atypical=own, typical=np.where(np.arange(len(own)) % 100 < 76, 1.0, 0.0))
    (row,) = tuned(lenient, "verifier typical", COSTS, "atypical", (0.02,))
    (strict,) = tuned(replace(lenient, own_atypical=0 * own), "verifier typical", COSTS, "atypical", (0.02,))
    assert row["sprinter"]["calls_per_token"] < 0.2
    assert strict["sprinter"] is None or strict["sprinter"]["calls_per_token"] > 0.5


def test_the_comparison_at_temperature_1_runs_what_was_tuned(
    result: dict[str, list[dict]], capsys: pytest.CaptureFixture[str]
) -> None:
    specs = measured({"results": [{**result, "sampling": "T=1"}, {**result, "sampling": "greedy", "tuned": []}]})
    bench = Bench(None, Sampling(1.0))  # type: ignore[arg-type] - no model is needed to read settings
    configs = [decoding_of(spec, bench)[0] for spec in parse_specs(",".join(specs))]
    assert {config.method for config in configs} == {"sprinter", "lookahead"}
    told = capsys.readouterr().err
    for loss, level in (("tv", 0.05), ("tv", 0.1), ("atypical", 0.02), ("atypical", 0.05)):
        rows = [row for row in result["tuned"] if (row["loss"], row["level"]) == (loss, level)]
        fastest = max(rows, key=lambda row: row["sprinter"]["speedup"])
        at = fastest["sprinter"]
        assert any(
            (config.method, config.scorer, config.max_draft) == ("sprinter", fastest["scorer"], at["max_draft"])
            and config.threshold == pytest.approx(at["threshold"], abs=1e-4)
            for config in configs
        )
        assert f"sprinter at {loss} {level:g}" in told


def test_a_frontier_without_tuned_settings_says_what_to_run() -> None:
    with pytest.raises(SystemExit, match=r"default_verifier\.py first"):
        measured({"results": [{"sampling": "T=1"}]})


def test_tables_and_plots_come_out(result: dict[str, object], tmp_path: Path) -> None:
    text = "\n".join(frontier_lines(result) + schedule_lines(result) + goal_lines(goals([result], *_GATES)))
    assert "| oracle |" in text and "AUC for typical" in text and "| atypical beyond own 0.02 | typical |" in text
    pytest.importorskip("matplotlib")
    for name in ("a.png", "a.svg"):
        plot_gates([result], tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        plot_gates([result], tmp_path / "a.pdf")


_GATES = ("verifier accept", "verifier typical")
