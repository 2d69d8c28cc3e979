"""Labelled tokens per second: in company, one text at a time, and one token at a time as the paper's code goes.

    python benchmarks/collect_speed.py --data texts.jsonl --out FILE [--prompts 32] [--tokens 48] [--repeats 3]

The ways take turns, each on the same prompts, in a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch

from sprinter.build import Pair
from sprinter.config import ModelConfig
from sprinter.core.sampling import Sampling
from sprinter.learn.collect import CollectSettings, collect
from sprinter.learn.prompts import Prompt, read_prompts
from sprinter.learn.rows import load_rows
from sprinter.provenance import stamp

GREEDY, OTHERS = Sampling(0.0), (Sampling(0.7, top_p=0.9), Sampling(1.0))


def rows_per_s(pair: Pair, prompts: list[Prompt], settings: CollectSettings) -> float:
    with TemporaryDirectory() as folder:
        started = perf_counter()
        collect(pair, prompts, Path(folder), settings)
        seconds = perf_counter() - started
        return len(load_rows([Path(folder)])) / seconds


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    reader.add_argument("--data", type=Path, required=True)
    reader.add_argument("--out", type=Path, required=True)
    for name, default in (("prompts", 32), ("tokens", 48), ("repeats", 3)):
        reader.add_argument(f"--{name}", type=int, default=default)
    given = reader.parse_args()
    pair = Pair(ModelConfig(verifier="none"))
    prompts = sorted(read_prompts([given.data], [6]), key=lambda p: p.id)[: given.prompts]
    ways = {
        "paper, one at a time": CollectSettings("paper", given.tokens, (GREEDY,), 1),
        "exact, one at a time": CollectSettings("exact", given.tokens, (GREEDY,), 1),
        "exact, 16 in company": CollectSettings("exact", given.tokens, (GREEDY,), 16),
        "exact, 16 in company, three transforms": CollectSettings("exact", given.tokens, (GREEDY, *OTHERS), 16),
        "draft, 16 in company": CollectSettings("draft", given.tokens, (GREEDY,), 16),
    }
    rows_per_s(pair, prompts[:2], ways["paper, one at a time"])  # warm-up
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.repeats):
        for name, settings in ways.items():
            found[name].append(rows_per_s(pair, prompts, settings))
    base = float(np.median(found["exact, one at a time"]))
    results = {
        name: {"rows_per_s": round(float(np.median(own)), 1), "times": round(float(np.median(own)) / base, 2)}
        for name, own in found.items()
    }
    for name, row in results.items():
        print(f"{name:40} {row['rows_per_s']:9.1f} rows/s  {row['times']:.2f}x", file=sys.stderr)
    used = {**vars(given), "data": given.data.name, "out": given.out.name, "threads": torch.get_num_threads()}
    given.out.write_text(json.dumps({"results": results, "record": stamp(used, 0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
