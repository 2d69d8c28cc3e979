"""Labelled tokens per second: batched collection against the paper's, one token of one prompt at a time.

    python benchmarks/collect_speed.py --data texts.jsonl [--prompts 32] [--tokens 48] [--single 2]

The baseline is kind to the paper's way: it too keeps both models' key-value caches. Seconds are of the processor, so
that other work on the machine changes little; with one thread they are what an idle machine's clock would show.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import torch

from sprinter.build import Pair
from sprinter.config import ModelConfig
from sprinter.core.sampling import Sampling
from sprinter.learn.collect import CollectSettings, CollectSource, collect
from sprinter.learn.prompts import Prompt, read_prompts
from sprinter.learn.rows import load_rows
from sprinter.provenance import stamp

GREEDY, OTHERS = Sampling(0.0), (Sampling(0.7, top_p=0.9), Sampling(1.0))


def measured(
    source: CollectSource, prompts: list[Prompt], settings: CollectSettings, texts: Path | None = None
) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        started, cpu = perf_counter(), process_time()
        collect(source, prompts, Path(folder), settings, texts=texts)
        wall_s, cpu_s = perf_counter() - started, process_time() - cpu
        rows = load_rows([Path(folder)])
    contexts = len(rows.hidden)
    return {
        "contexts": contexts,
        "labelled": len(rows),
        "cpu_s": round(cpu_s, 2),
        "wall_s": round(wall_s, 2),
        "contexts_per_cpu_s": round(contexts / cpu_s, 2),
        "labelled_per_cpu_s": round(len(rows) / cpu_s, 2),
    }


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--data", type=Path, required=True)
    for name, default in (("prompts", 32), ("tokens", 48), ("single", 2)):
        reader.add_argument(f"--{name}", type=int, default=default)
    given = reader.parse_args()
    source = CollectSource.of(Pair(ModelConfig(verifier="none", backend="hf")))
    prompts = sorted(read_prompts([given.data], [6]), key=lambda p: p.id)[: given.prompts]
    measured(source, prompts[:1], CollectSettings("paper", 2, (GREEDY,), 1))  # warm-up
    size = given.prompts
    found = {
        "one at a time": measured(source, prompts[: given.single], CollectSettings("paper", 20, (GREEDY,), 1)),
        "draft, batched": measured(source, prompts, CollectSettings("draft", given.tokens, (GREEDY,), size)),
        "draft, batched, two more transforms": measured(
            source, prompts, CollectSettings("draft", given.tokens, (GREEDY, *OTHERS), size)
        ),
    }
    with TemporaryDirectory() as kept:
        settings = CollectSettings("exact", given.tokens, (GREEDY, *OTHERS), size)
        found["exact, first draft"] = measured(source, prompts, settings, Path(kept))
        found["exact, texts kept"] = measured(source, prompts, settings, Path(kept))
    base = found["one at a time"]
    for row in found.values():
        row["times_faster"] = round(row["labelled_per_cpu_s"] / base["labelled_per_cpu_s"], 2)
    settings_used = {**vars(given), "data": given.data.name, "threads": torch.get_num_threads()}
    print(json.dumps({"results": found, "record": stamp(settings_used, 0)}, indent=1))


if __name__ == "__main__":
    main()
