"""Tokens per second of many texts in company, and what company costs a single text.

    python benchmarks/batch.py --out benchmarks/results/batch.json [--texts 32] [--max-new-tokens 32] [--repeats 3]

The same prompts are written at every width: as one text ends the next begins, so that as many are under way as the
width says. Methods and widths take turns, so that a machine that changes its speed changes it for all. Ratios are to
the same method with one text at a time. Latency is the time from one token of a text to its next, over all texts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from sprinter import Sprinter
from sprinter.certify.choose import Wish
from sprinter.config import make_config
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.sampling import Sampling
from sprinter.core.text import Text
from sprinter.engine import Engine
from sprinter.observers.audit import Audit
from sprinter.provenance import stamp
from sprinter.scheduler import Cheapest, Curves, Eager, Scheduler

PROMPTS = Path(__file__).with_name("prompts") / "chat.jsonl"
WIDTHS = (1, 2, 4, 8, 16, 32)
METHODS = ("target", "exact", "sprinter at certified 2%", "lookahead", "sprinter, cheapest", "exact, cheapest")


@dataclass
class Run:
    """One pass over all prompts."""

    seconds: float = 0.0
    tokens: int = 0
    gaps_s: list[float] = field(default_factory=list)  # between two tokens of one text


class Writer:
    """Writes all prompts by one recipe, so many at a time."""

    def __init__(self, sprinter: Sprinter, recipe: Recipe, scheduler: Scheduler, prompts: list[list[int]]) -> None:
        self.pair, self.recipe, self.prompts = sprinter.pair, recipe, prompts
        self.scheduler = scheduler

    def run(self, width: int, count: int) -> Run:
        """Closed loop: as one text ends the next begins."""
        engine, run = Engine(self.pair.target, self.scheduler), Run()
        limits = self.pair.limits(self.recipe.runs_draft)
        waiting, running, last = list(enumerate(self.prompts)), list[Text](), dict[int, float]()
        began = perf_counter()
        while waiting or running:
            while waiting and len(running) < width:
                seed, prompt = waiting.pop(0)
                text = Text(prompt, count, Sampling(0.0), Chance(seed), limits)
                running.append(engine.begin(text, self.recipe, [Audit.of(self.recipe)]))
            engine.tick(running)
            now = perf_counter()
            for text in running:
                for _ in text.out:
                    if id(text) in last:
                        run.gaps_s.append(now - last[id(text)])
                    last[id(text)] = now
                run.tokens += len(text.out)
                text.out.clear()
                if text.finish_reason is not None:
                    last.pop(id(text), None)
            running = [text for text in running if text.finish_reason is None]
        run.seconds = perf_counter() - began
        return run


def writers(sprinter: Sprinter, prompts: list[list[int]], names: list[str]) -> dict[str, Writer]:
    curves = Curves.measured(sprinter.pair.draft, sprinter.pair.target)
    made = {}
    for name in names:
        config = make_config(None, {"method": name.split(",")[0].split(" ")[0], "temperature": 0.0})
        if config.decoding.method == "sprinter":
            config, _ = sprinter.certified(config, Wish(max_atypical=0.02))
        scheduler = Cheapest(curves) if name.endswith("cheapest") else Eager()
        made[name] = Writer(sprinter, sprinter.recipe(config.decoding), scheduler, prompts)
    return made


def summary(runs: list[Run], alone: list[Run]) -> dict[str, Any]:
    speeds = [run.tokens / run.seconds for run in runs]
    gaps = np.concatenate([run.gaps_s for run in runs]) * 1000
    return {
        "tokens_per_s": round(float(np.median(speeds)), 1),
        "times_alone": round(float(np.median(speeds) / np.median([run.tokens / run.seconds for run in alone])), 2),
        "gap_ms_p50": round(float(np.quantile(gaps, 0.5)), 2),
        "gap_ms_p95": round(float(np.quantile(gaps, 0.95)), 2),
    }


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--methods", default=";".join(METHODS), help="names as above, with ; between them")
    reader.add_argument("--widths", default=",".join(map(str, WIDTHS)))
    for name, default in (("texts", 32), ("max-new-tokens", 32), ("repeats", 3)):
        reader.add_argument(f"--{name}", type=int, default=default)
    given = reader.parse_args()
    sprinter, load = Sprinter.from_pretrained(), os.getloadavg()[0]
    texts = [json.loads(line)["text"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    prompts = [sprinter.pair.tokenizer.encode_chat(texts[n % len(texts)]) for n in range(given.texts)]
    made = writers(sprinter, prompts, given.methods.split(";"))
    widths = sorted({1, *map(int, given.widths.split(","))})
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for writer in made.values():
        writer.run(8, 8)  # warm-up
    for _ in range(given.repeats):
        for width in widths:
            for name, writer in made.items():
                runs[name, width].append(writer.run(width, given.max_new_tokens))
    results = {name: {str(w): summary(runs[name, w], runs[name, 1]) for w in widths} for name in made}
    for name, rows in results.items():
        for width, row in rows.items():
            print(f"{name:26} {width:>3}", *(f"{key} {value}" for key, value in row.items()), file=sys.stderr)
    used = {**vars(given), "out": given.out.name, "threads": torch.get_num_threads()}
    told = {"results": results, "load_average": [load, os.getloadavg()[0]], "record": stamp(used, 0)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
