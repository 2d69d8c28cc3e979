"""The default pair against its peers: two kinds of prompts, greedy and at temperature 1, on unseen entries.

    python benchmarks/compare_default_pair.py --encyclopedia FILE.jsonl --speeches FILE.jsonl

Four comparisons in benchmarks/results/default-pair, each resumable: the same command goes on where it was stopped. A
certified level that no certificate grants is left out, with a line that says so. Where no certificate is shipped at
all (temperature 1) the settings are the fastest that stayed within delta 0.05 and 0.10, and within 2% and 5% atypical
tokens beyond the target's own, on the rows of docs/verifier.md: benchmarks/default_verifier.py writes them.
benchmarks/benchmark_tables.py puts the results into docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sprinter.bench.bench import BenchConfig, Step, run_bench
from sprinter.bench.methods import Bench, make_method, parse_specs
from sprinter.bench.report import write_outputs
from sprinter.bench.tables import terminal_table
from sprinter.build import Pair
from sprinter.config import ModelConfig
from sprinter.core.sampling import Sampling
from sprinter.errors import CertificateError, ConfigError
from sprinter.learn.splits import TEST_BUCKETS

LEVELS = ("tv=0.05", "tv=0.1", "atypical=0.02", "atypical=0.05")
MEASURED = {"tv": (0.05, 0.1), "atypical": (0.02, 0.05)}
VOUCHING = ("sprinter", "lookahead")
CERTIFIED = tuple(f"{method}:{level}" for method in VOUCHING for level in LEVELS)
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
    """`sprinter` and `lookahead` with the settings that met each level at temperature 1 on recorded rows.

    Where several scorers meet a level, the one predicted to be fastest; what no setting met is left out, with a line.
    """
    (found,) = (r for r in report["results"] if r["sampling"] == "T=1")
    if "tuned" not in found:
        sys.exit(f"{REPORT.name} holds no settings for atypical levels: run benchmarks/default_verifier.py first")
    specs: list[str] = []
    for loss, levels in MEASURED.items():
        for level in levels:
            rows = [row for row in found["tuned"] if (row["loss"], row["level"]) == (loss, level)]
            for method in VOUCHING:
                met = [(row[method]["speedup"], spec_of(method, row)) for row in rows if row[method] is not None]
                told = max(met)[1] if met else "no setting met it"
                print(f"{method} at {loss} {level:g}, temperature 1: {told}", file=sys.stderr)
                # One setting may be the fastest for two levels.
                if met and told not in specs:
                    specs.append(told)
    return tuple(specs)


def spec_of(method: str, row: Mapping[str, Any]) -> str:
    """The name `sprinter bench` gives to a tuned setting of docs/verifier/frontier.json."""
    at = row[method]
    scorer = "" if row["scorer"] == "accept" else f"+scorer={row['scorer']}"
    bound = f"+lookahead={at['lookahead']}" if method == "lookahead" else ""
    return f"{method}:{at['threshold']:.4f}{scorer}+max_draft={at['max_draft']:g}{bound}"


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
