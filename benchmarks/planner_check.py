"""Does the planner foresee what the benchmark measures? Predicted and measured tokens/s of one pair, in one process.

    python benchmarks/planner_check.py --data texts.jsonl --bucket 8 --bucket 9

At each temperature the pair is timed and probed as `sprinter plan` does it, on prompts of the same file that are not
measured. That predicts the speed of the target alone, of exact decoding at the length predicted to be best, and of
sprinter at the verifier's own threshold. Then the comparison of `sprinter bench` runs the three, prompt by prompt. Its
records and planner.json, with both speeds, their ratio and how it was made, go to benchmarks/results/planner-check.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from sprinter.build import Pair, build_gate
from sprinter.config import DecodingConfig, ModelConfig
from sprinter.decoding.gates.threshold import ThresholdGate
from sprinter.evaluation import journal
from sprinter.evaluation.bench import BenchConfig, run_bench
from sprinter.evaluation.data import load_prompts
from sprinter.evaluation.methods import Bench
from sprinter.evaluation.probe import open_parts, probe_rows, time_pair
from sprinter.evaluation.summary import summarise
from sprinter.evaluation.tables import aligned
from sprinter.provenance import stamp
from sprinter.sampling import Dice, Sampling
from sprinter.theory.candidates import Candidate, Outcome, trace_outcome
from sprinter.theory.setting import Setting

LENGTHS = range(1, 9)  # drafted tokens, as `sprinter bench` tries them
TOLERANCE = 0.15


def predict(bench: Bench, prompts: list[list[int]], num_tokens: int, seed: int) -> tuple[dict[str, Outcome], dict]:
    """The expected outcome of each method by its name in a comparison, and what the prediction rests on."""
    config = DecodingConfig()
    parts = open_parts(bench.pair, config, bench.sampling)
    gate = build_gate(bench.pair, config)
    assert isinstance(gate, ThresholdGate)
    dice = Dice(np.random.default_rng(seed))
    costs = time_pair(parts, prompts[0], dice)
    traces = probe_rows(parts, prompts, num_tokens, dice)
    exact = [trace_outcome(Candidate("exact", Setting.exact(n)), traces, costs) for n in LENGTHS]
    best = min(exact, key=lambda outcome: outcome.seconds_per_token)
    own = Setting(gate.threshold, 1.0, config.draft_cap or 20)
    outcomes = {
        "target": trace_outcome(Candidate("target", None), traces, costs),
        f"exact:{best.candidate.setting.cap}": best,
        "sprinter": trace_outcome(Candidate("sprinter", own), traces, costs),
    }
    basis = {
        "draft_ms": 1000 * costs.draft_s,
        "verifier_ms": 1000 * costs.verifier_s,
        "target_ms": {w: 1000 * s for w, s in zip(costs.target_s.widths, costs.target_s.seconds, strict=True)},
        "alpha": float(np.concatenate([rows.accept for rows in traces]).mean()),
        "threshold": gate.threshold,
        "probed_prompts": len(prompts),
    }
    return outcomes, basis


def check(given: argparse.Namespace, temperature: float, folder: Path) -> list[dict]:
    """One row per method: predicted and measured tokens/s."""
    bench = Bench(
        Pair(ModelConfig(target=given.target, draft=given.draft, verifier=given.verifier)), Sampling(temperature)
    )
    buckets = tuple(given.bucket or ())
    chosen = load_prompts(given.data, given.prompts + 1 + given.probed, given.seed, buckets or None)
    probed = [bench.pair.tokenizer.encode(prompt.text) for prompt in chosen[given.prompts + 1 :]]
    outcomes, basis = predict(bench, probed, given.max_new_tokens, given.seed)
    config = BenchConfig(
        given.data, ",".join(outcomes), given.prompts, given.max_new_tokens, given.seed, buckets, warmup=1, samples=0
    )
    run_bench(config, bench, folder, on_step=told)
    summary = summarise(journal.read(folder))
    rows = []
    for name, outcome in outcomes.items():
        predicted, measured = 1 / outcome.seconds_per_token, summary["methods"][name]["tokens_per_s"]
        within = abs(predicted / measured - 1) <= TOLERANCE
        rows.append(
            {
                "method": name,
                "predicted_tokens_per_s": predicted,
                "measured_tokens_per_s": measured,
                "ratio": predicted / measured,
                "within_tolerance": within,
                "predicted_calls_per_token": outcome.calls_per_token,
                "measured_calls_per_token": summary["methods"][name]["target_calls_per_token"],
            }
        )
    record = stamp(
        {"temperature": temperature, "max_new_tokens": given.max_new_tokens, "prompts": given.prompts}, given.seed
    )
    content = {"tolerance": TOLERANCE, "methods": rows, "basis": basis, "record": record}
    (folder / "planner.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return rows


def told(step: object) -> None:
    """A failure is told at once; the speed of what is left would mean nothing."""
    if getattr(step, "failed", False):
        print(f"{step.method} failed on a prompt", file=sys.stderr)  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--bucket", type=int, action="append")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--probed", type=int, default=20, help="prompts of the probe")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperatures", default="0,1")
    parser.add_argument("--seed", type=int, default=0)
    for part in ("target", "draft", "verifier"):
        parser.add_argument(f"--{part}", default="default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "planner-check")
    given = parser.parse_args()
    table = [
        ["temperature", "method", "predicted tok/s", "measured tok/s", "ratio", "calls/token, predicted", "measured"]
    ]
    for temperature in map(float, given.temperatures.split(",")):
        rows = check(given, temperature, given.out / f"t{temperature:g}")
        for row in rows:
            numbers = (row["predicted_tokens_per_s"], row["measured_tokens_per_s"], row["ratio"])
            calls = (row["predicted_calls_per_token"], row["measured_calls_per_token"])
            table.append(
                [f"{temperature:g}", row["method"], *(f"{n:.2f}" for n in numbers), *(f"{c:.3f}" for c in calls)]
            )
    print(aligned(table))


if __name__ == "__main__":
    main()
