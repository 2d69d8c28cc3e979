"""How much of decoding the default pair is spent outside model forwards, and what the verifier costs.

    python benchmarks/loop_overhead.py --out benchmarks/results/loop.json [--prompts 8] [--max-new-tokens 64]

Methods take turns on every prompt. Each time is taken on two clocks: the wall's, which a busy machine disturbs, and the
processor time of the one thread that runs the loop, which it hardly does; forwards run on several threads, so that only
what lies outside of them is comparable on the second. The audit that every method carries is part of the loop.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import torch

from sprinter import Sprinter
from sprinter.gates.verifier import Verifier
from sprinter.provenance import stamp

PROMPTS = Path(__file__).with_name("prompts") / "chat.jsonl"
METHODS = ("target", "draft", "exact", "sprinter", "lookahead")
TEMPERATURES = (0.0, 1.0)
Times = dict[str, list[tuple[float, float]]]  # what ran -> (wall, thread) seconds of every call


def timed(work: Callable[..., Any], times: list[tuple[float, float]]) -> Callable[..., Any]:
    """`work`, noting how long each call takes."""

    def run(*args: Any) -> Any:
        wall, thread = perf_counter(), thread_time()
        result = work(*args)
        times.append((perf_counter() - wall, thread_time() - thread))
        return result

    return run


def instrument(writer: Sprinter) -> Times:
    """Make the pair's models and its verifiers note their times."""
    times: Times = defaultdict(list)
    for name in ("target", "draft"):
        model = getattr(writer.pair, name)
        model.forward = timed(model.forward, times[name])
    Verifier.score = timed(Verifier.score, times["verifier"])  # type: ignore[method-assign]
    return times


def measure(writer: Sprinter, times: Times, prompt: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one generation: in all, in forwards, in the verifier."""
    for noted in times.values():
        noted.clear()
    wall, thread = perf_counter(), thread_time()
    done = writer.generate(prompt, chat=True, **settings)
    spent = np.array([perf_counter() - wall, thread_time() - thread])
    sums = {name: np.sum(np.reshape(noted, (-1, 2)), axis=0) for name, noted in times.items()}
    forwards = sums["target"] + sums["draft"]
    # A draft's first call of a text reads the prompt: it is no step.
    return {
        "tokens": done.num_tokens,
        "wall_s": spent[0],
        "outside_wall_s": (spent - forwards)[0],
        "outside_thread_s": (spent - forwards)[1],
        "verifier_s": [own for _, own in times["verifier"]],
        "draft_step_s": [own for own, _ in times["draft"][1:]],
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The account of one method over its runs."""
    tokens, wall_s = sum(r["tokens"] for r in runs), sum(r["wall_s"] for r in runs)
    steps = [s for r in runs for s in r["draft_step_s"]]
    scores = [s for r in runs for s in r["verifier_s"]]
    found: dict[str, Any] = {
        "tokens": tokens,
        "tokens_per_s": round(tokens / wall_s, 1),
        # The middle run: one in which something else held the processor says nothing about the loop.
        "outside_share": round(float(np.median([r["outside_wall_s"] / r["wall_s"] for r in runs])), 4),
        "outside_us_per_token": round(1e6 * sum(r["outside_thread_s"] for r in runs) / tokens, 1),
    }
    if steps:
        found["draft_step_us"] = round(1e6 * float(np.median(steps)), 1)
    if scores:
        found["verifier_us"] = round(1e6 * float(np.median(scores)), 1)
        found["verifier_share_of_draft_step"] = round(found["verifier_us"] / found["draft_step_us"], 4)
    return found


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--data", type=Path, default=PROMPTS)
    for name, default in (("prompts", 8), ("max-new-tokens", 64), ("threads", torch.get_num_threads())):
        reader.add_argument(f"--{name}", type=int, default=default)
    given = reader.parse_args()
    torch.set_num_threads(given.threads)
    texts = [json.loads(line)["text"] for line in given.data.read_text().splitlines()][: given.prompts]
    writer, load = Sprinter.from_pretrained(), os.getloadavg()[0]
    times, runs = instrument(writer), defaultdict(list)
    for place, text in enumerate([texts[0], *texts]):  # the first round warms up
        for method in METHODS:
            for temperature in TEMPERATURES:
                settings = {"method": method, "temperature": temperature, "max_new_tokens": given.max_new_tokens}
                run = measure(writer, times, text, {**settings, "seed": place})
                if place:
                    runs[f"{method}, temperature {temperature:g}"].append(run)
    result = {
        "results": {name: summary(own) for name, own in runs.items()},
        "load_average": [load, os.getloadavg()[0]],
        "record": stamp({**vars(given), "data": given.data.name, "out": given.out.name}, 0),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result["results"].items():
        print(f"{name:26}", *(f"{key} {value}" for key, value in row.items()), file=sys.stderr)


if __name__ == "__main__":
    main()
