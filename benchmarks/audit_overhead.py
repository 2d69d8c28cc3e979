"""What the audit costs: the default pair decoding with and without it, prompt by prompt in turn.

    python benchmarks/audit_overhead.py --out benchmarks/results/audit.json [--data FILE.jsonl] [--prompts 40]

No product option turns the audit off; here an audit that looks at nothing takes its place. Each prompt is decoded both
ways by the same seed, so both write the same tokens, twice, in the order on, off, off, on. The ratio is seconds with
over seconds without, pooled over prompts, with a 95% interval by paired bootstrap over prompts. The report at a text's
end is part of the audit's time, its closing call is not: it serves calibration.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import torch

from sprinter.bench.bootstrap import paired_ratio
from sprinter.build import Pair, build_recipe
from sprinter.config import DecodingConfig, ModelConfig
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.sampling import Sampling
from sprinter.core.text import Text
from sprinter.engine import Engine
from sprinter.observers.audit import Audit
from sprinter.provenance import stamp

PROMPTS = Path(__file__).with_name("prompts") / "chat.jsonl"
METHODS = ("target", "exact", "sprinter")
TEMPERATURES = (0.0, 1.0)
Task = tuple[Sequence[int], int, int]  # prompt, tokens to write, seed
TURNS = (True, False, False, True)  # audited or not; a machine that slows down slows both alike


class TimedAudit(Audit):
    """The audit, noting the processor time of the loop's thread in it: what a busy machine hardly disturbs."""

    def __init__(self) -> None:
        super().__init__()
        self.thread_s = 0.0

    def saw(self, *call: Any) -> None:
        started = thread_time()
        super().saw(*call)
        self.thread_s += thread_time() - started


class NoAudit(TimedAudit):
    """An audit that does not look."""

    def saw(self, *call: Any) -> None:
        pass


def decode_s(pair: Pair, recipe: Recipe, sampling: Sampling, text: Task, audited: bool) -> Any:
    """(seconds, seconds of the audit's observing, tokens) of one text from empty caches."""
    prompt, count, seed = text
    audit, engine = TimedAudit() if audited else NoAudit(), Engine(pair.target)
    made = Text(prompt, count, sampling, Chance(seed), pair.limits(recipe.runs_draft))
    started = perf_counter()
    engine.run([engine.begin(made, recipe, [audit])])
    audit.report(made.num_tokens)
    return perf_counter() - started, audit.thread_s, [emitted.id for emitted in made.out]


def measure(
    pair: Pair, recipe: Recipe, sampling: Sampling, prompts: Sequence[Sequence[int]], count: int
) -> dict[str, Any]:
    """The ratio of one method over all prompts; a first prompt warms up."""
    seconds = {True: [0.0] * len(prompts), False: [0.0] * len(prompts)}
    num_tokens, unlike, observing_s = 0, 0, 0.0
    for place, prompt in enumerate([prompts[0], *prompts], -1):
        texts = []
        for audited in TURNS:
            spent, observed, tokens = decode_s(pair, recipe, sampling, (prompt, count, max(0, place)), audited)
            texts.append(tokens)
            if place >= 0:
                seconds[audited][place] += spent
                observing_s += observed
        if place >= 0:
            num_tokens += len(texts[0])
            unlike += any(tokens != texts[0] for tokens in texts)
    on, off = np.array(seconds[True]), np.array(seconds[False])
    found = paired_ratio(on, off, np.random.default_rng(0))
    return {
        "ratio": round(found.value, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        # The middle prompt: one in which something else held the processor says nothing about the audit.
        "median_ratio": round(float(np.median(on / off)), 4),
        "us_per_token": round(1e6 * float(on.sum() - off.sum()) / (2 * num_tokens), 1),
        "observing_thread_us_per_token": round(1e6 * observing_s / (2 * num_tokens), 1),
        "tokens_per_s_audited": round(2 * num_tokens / float(on.sum()), 1),
        "prompts": len(prompts),
        "prompts_with_unlike_texts": unlike,
    }


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--data", type=Path, default=PROMPTS, help='JSON lines with "text"')
    reader.add_argument("--methods", default=",".join(METHODS))
    reader.add_argument("--prompts", type=int, default=40)
    reader.add_argument("--max-new-tokens", type=int, default=64)
    given = reader.parse_args()
    pair, load = Pair(ModelConfig()), os.getloadavg()[0]
    with given.data.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(given.prompts), strict=False)]
    prompts = [pair.tokenizer.encode(text) for text in texts]
    results: dict[str, Any] = {}
    for method in given.methods.split(","):
        for temperature in TEMPERATURES:
            recipe = build_recipe(pair, DecodingConfig(method=method))
            name = f"{method}, temperature {temperature:g}"
            results[name] = measure(pair, recipe, Sampling(temperature), prompts, given.max_new_tokens)
            print(f"{name:26}", *(f"{key} {value}" for key, value in results[name].items()), file=sys.stderr)
    settings = {**vars(given), "data": given.data.name, "out": given.out.name, "threads": torch.get_num_threads()}
    told = {"results": results, "load_average": [load, os.getloadavg()[0]], "record": stamp(settings, 0)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
