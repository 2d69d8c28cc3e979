"""Does the planner foresee what the benchmark measures? Predicted and measured tokens/s of one pair, in one process.

    python benchmarks/planner_check.py --data texts.jsonl --bucket 8 --bucket 9

At each temperature the pair is probed and timed as `sprinter plan` does it, on prompts of the same file that are not
measured. That predicts the speed of the target alone, of exact decoding at the length predicted to be best, and of
sprinter at the verifier's own threshold. Then the comparison of `sprinter bench` runs the three, prompt by prompt.
Between prompts the pair is timed again, which tells a planner that errs from a machine that changed its speed. The
records and planner.json, with both speeds, their ratios and how it was made, go to benchmarks/results/planner-check.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sprinter.bench import journal
from sprinter.bench.bench import BenchConfig, Step, run_bench
from sprinter.bench.data import load_prompts
from sprinter.bench.methods import Bench
from sprinter.bench.probe import Parts, open_parts, probe_rows
from sprinter.bench.summary import summarise
from sprinter.bench.tables import aligned
from sprinter.bench.timing import time_pair
from sprinter.build import Pair, build_recipe
from sprinter.config import DecodingConfig, ModelConfig
from sprinter.core.sampling import Sampling
from sprinter.gates.threshold import ThresholdGate
from sprinter.provenance import stamp
from sprinter.theory.candidates import Candidate, Outcome, trace_outcome
from sprinter.theory.costs import Costs
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import Rows

LENGTHS = range(1, 9)  # drafted tokens, as `sprinter bench` tries them
TOLERANCE = 0.15
TIMINGS = 5  # about so many during a measurement


@dataclass(frozen=True)
class Foresight:
    """What a prediction rests on, besides the times."""

    parts: Parts
    prompts: list[list[int]]  # of the probe
    traces: list[Rows]
    own: Setting  # sprinter's

    def outcomes(self, costs: Costs, lengths: Iterable[int]) -> dict[str, Outcome]:
        """The expected outcome of each method by its name in a comparison; of `lengths` the one that is best."""
        exact = [trace_outcome(Candidate("exact", Setting.exact(n)), self.traces, costs) for n in lengths]
        best = min(exact, key=lambda outcome: outcome.seconds_per_token)
        assert best.candidate.setting is not None
        return {
            "target": trace_outcome(Candidate("target", None), self.traces, costs),
            f"exact:{best.candidate.setting.cap}": best,
            "sprinter": trace_outcome(Candidate("sprinter", self.own), self.traces, costs),
        }


def foresee(bench: Bench, prompts: list[list[int]], num_tokens: int, seed: int) -> Foresight:
    """The probe of `sprinter plan` on these prompts."""
    config = DecodingConfig()
    parts = open_parts(bench.pair, config, bench.sampling)
    gate = build_recipe(bench.pair, config).gate
    assert isinstance(gate, ThresholdGate)
    own = Setting(gate.threshold, 1.0, config.draft_cap or num_tokens)
    return Foresight(parts, prompts, probe_rows(parts, prompts, num_tokens, seed), own)


def check(given: argparse.Namespace, temperature: float, folder: Path) -> dict[str, Any]:
    """Predict, measure, time again; what planner.json holds."""
    models = ModelConfig(target=given.target, draft=given.draft, verifier=given.verifier)
    bench = Bench(Pair(models), Sampling(temperature))
    buckets = tuple(given.bucket or ())
    chosen = load_prompts(given.data, given.prompts + 1 + given.probed, given.seed, buckets or None)
    probed = [bench.pair.tokenizer.encode(prompt.text) for prompt in chosen[given.prompts + 1 :]]
    foresight = foresee(bench, probed, given.max_new_tokens, given.seed)
    costs = time_pair(foresight.parts, probed, given.seed)
    predicted = foresight.outcomes(costs, LENGTHS)
    methods = ",".join(predicted)
    config = BenchConfig(
        given.data, methods, given.prompts, given.max_new_tokens, given.seed, buckets, warmup=1, samples=0
    )
    meanwhile: list[Costs] = []

    def between(step: Step) -> None:
        if step.failed:
            print(f"{step.method} failed on a prompt", file=sys.stderr)
        if step.done % (len(predicted) * max(1, given.prompts // TIMINGS)) == 0:
            meanwhile.append(time_pair(foresight.parts, probed, given.seed, repeats=1))

    run_bench(config, bench, folder, on_step=between)
    measured = summarise(journal.read(folder))["methods"]
    lengths = [int(name.partition(":")[2]) for name in predicted if name.startswith("exact:")]
    retimed = [foresight.outcomes(costs, lengths) for costs in meanwhile]
    settings = {"temperature": temperature, "max_new_tokens": given.max_new_tokens, "prompts": given.prompts}
    return {
        "tolerance": TOLERANCE,
        "methods": {
            name: row(predicted[name], [again[name] for again in retimed], measured[name]) for name in predicted
        },
        "threshold": foresight.own.threshold,
        "probed_prompts": len(probed),
        "alpha": float(np.concatenate([rows.accept for rows in foresight.traces]).mean()),
        "costs": dataclasses.asdict(costs),
        "costs_meanwhile": [dataclasses.asdict(costs) for costs in meanwhile],
        "record": stamp(settings, given.seed),
    }


def row(predicted: Outcome, retimed: Sequence[Outcome], measured: Mapping[str, Any]) -> dict[str, Any]:
    """One method's speeds in tokens/s; `ratio_retimed` is with the times taken during the measurement."""
    speed = measured["tokens_per_s"]
    ratio = 1 / predicted.seconds_per_token / speed
    return {
        "predicted": 1 / predicted.seconds_per_token,
        "measured": speed,
        "ratio": ratio,
        "within_tolerance": abs(ratio - 1) <= TOLERANCE,
        "ratio_retimed": 1 / float(np.mean([again.seconds_per_token for again in retimed])) / speed,
        "predicted_calls_per_token": predicted.calls_per_token,
        "measured_calls_per_token": measured["target_calls_per_token"],
    }


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
        ["temperature", "method", "predicted tok/s", "measured", "ratio", "timed meanwhile", "calls/token", "measured"]
    ]
    for temperature in map(float, given.temperatures.split(",")):
        folder = given.out / f"t{temperature:g}"
        found = check(given, temperature, folder)
        (folder / "planner.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        for name, told_of in found["methods"].items():
            speeds = [f"{told_of[key]:.2f}" for key in ("predicted", "measured", "ratio", "ratio_retimed")]
            calls = [f"{told_of[key]:.3f}" for key in ("predicted_calls_per_token", "measured_calls_per_token")]
            table.append([f"{temperature:g}", name, *speeds, *calls])
    print(aligned(table))


if __name__ == "__main__":
    main()
