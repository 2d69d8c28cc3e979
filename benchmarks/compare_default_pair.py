"""The default pair against its peers: two kinds of prompts, greedy and at temperature 1, on unseen entries.

    python benchmarks/compare_default_pair.py --encyclopedia FILE.jsonl --speeches FILE.jsonl

Four comparisons in benchmarks/results/default-pair, each resumable: the same command goes on where it was stopped. A
certified level that no certificate grants is left out, with a line that says so. Where no certificate is shipped at all
(temperature 1) the thresholds of delta 0.05 and 0.10 are those measured for docs/verifier.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sprinter.build import Pair
from sprinter.config import ModelConfig
from sprinter.errors import CertificateError, ConfigError
from sprinter.evaluation.bench import BenchConfig, Step, run_bench
from sprinter.evaluation.methods import Bench, make_method, parse_specs
from sprinter.evaluation.report import write_outputs
from sprinter.evaluation.tables import terminal_table
from sprinter.sampling import Sampling
from sprinter.training.splits import TEST_BUCKETS

LEVELS = ("tv=0.05", "tv=0.1", "atypical=0.02", "atypical=0.05")
DELTAS = (0.05, 0.1)
CERTIFIED = tuple(f"{method}:{level}" for method in ("sprinter", "lookahead") for level in LEVELS)
OURS = ("target", "draft", "exact", "lossless", "levels", "paper", "confidence:0.8", "bild:0.5+rollback=4")
PEERS = ("hf", "hf-assisted", "hf-ensemble:0.5", "llamacpp", "llamacpp-draft:4")
REPORT = Path(__file__).parents[1] / "docs" / "verifier" / "frontier.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encyclopedia", required=True)
    parser.add_argument("--speeches", required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "default-pair")
    parser.add_argument("--methods", default=",".join((*OURS, *PEERS)), help="'levels': all with a stated loss")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--verifier", default="default")
    parser.add_argument("--certificates", type=Path, default=None)
    parser.add_argument("--temperatures", default="0,1")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--peer-weights", default="bfloat16", help="number format of transformers' models")
    given = parser.parse_args()
    pair = Pair(ModelConfig(verifier=given.verifier))
    for temperature in map(float, given.temperatures.split(",")):
        bench = Bench(
            pair,
            Sampling(temperature),
            given.certificates,
            peer_weights=given.peer_weights,
            max_new_tokens=given.max_new_tokens,
        )
        levels = CERTIFIED if temperature == 0 else measured(json.loads(REPORT.read_text()))
        methods = available(given.methods.replace("levels", ",".join(levels)), bench)
        for name in ("encyclopedia", "speeches"):
            folder = given.out / f"{name}-{'greedy' if temperature == 0 else f't{temperature:g}'}"
            config = BenchConfig(
                data=getattr(given, name),
                methods=methods,
                prompts=given.prompts,
                max_new_tokens=given.max_new_tokens,
                buckets=tuple(sorted(TEST_BUCKETS)),
                warmup=given.warmup,
            )
            print(f"{folder.name}: {methods}", file=sys.stderr)
            run_bench(config, bench, folder, resume=True, on_step=told)
            summary, _ = write_outputs(folder)
            print(f"\n{folder.name}\n{terminal_table(summary)}", flush=True)


def measured(report: Mapping[str, Any]) -> tuple[str, ...]:
    """`sprinter` and `lookahead` with the settings that met each delta at temperature 1 on recorded rows."""
    (found,) = (r for r in report["results"] if r["sampling"] == "T=1")
    specs = []
    for row in found["lookahead"]:
        if row["tv"] in DELTAS:
            for method in ("sprinter", "lookahead"):
                at = row[method]
                spec = f"{method}:{at['threshold']:.4f}+max_draft={at['max_draft']}"
                specs.append(spec + (f"+lookahead={at['lookahead']}" if method == "lookahead" else ""))
    return tuple(specs)


def available(wanted: str, bench: Bench) -> str:
    """The methods of `wanted` that can be made here."""
    kept = []
    for spec in parse_specs(wanted):
        try:
            make_method(spec, bench)
        except (CertificateError, ConfigError) as error:
            print(f"without {spec.text}: {error}", file=sys.stderr)
            continue
        kept.append(spec.text)
    return ",".join(kept)


def told(step: Step) -> None:
    """A line now and then."""
    if step.failed or step.done % 50 == 0 or step.done == step.total:
        print(
            f"{step.done} of {step.total} runs{', ' + step.method + ' failed' if step.failed else ''}", file=sys.stderr
        )


if __name__ == "__main__":
    main()
