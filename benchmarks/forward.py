"""Milliseconds of one forward pass over 1, 2, 4, ... new tokens, for every way to compute the default target.

    python benchmarks/forward.py --out benchmarks/results/forward.json [--hf] [--draft DIR] [--repeats 15]

The methods take turns in every repeat, so a noisy machine disturbs all alike; ratios are medians over repeats.
llama.cpp takes part where `llama_cpp` can be imported. Each timed pass follows an untimed one of the same method.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sprinter.core.rows import Model, Part
from sprinter.models.fast.model import FastModel
from sprinter.provenance import stamp
from sprinter.zoo import default_pair

LENGTHS = (1, 2, 4, 8, 16)
REFERENCE = "fast int4"
Pass = Callable[[list[int]], object]  # computes logits of all given new tokens after the context


def model_pass(model: Model, context: list[int]) -> Pass:
    cache = model.open()
    model.forward([Part(cache, context, 0)])

    def run(new: list[int]) -> object:
        cache.truncate(len(context))
        return model.forward([Part(cache, new, len(new))])

    return run


def torch_only(folder: Path, weights: str) -> FastModel:
    os.environ["SPRINTER_NATIVE"] = "0"
    try:
        return FastModel.load(folder, weights)
    finally:
        del os.environ["SPRINTER_NATIVE"]


def llama_pass(context: list[int], threads: int) -> Pass | None:
    """llama.cpp on the very GGUF file the target was converted from; None without it."""
    try:
        from llama_cpp import Llama  # noqa: PLC0415 - optional
    except ImportError:
        return None
    file = default_pair.find_target_gguf()
    if file is None:
        return None
    llama = Llama(str(file), n_ctx=512, n_threads=threads, n_threads_batch=threads, logits_all=True, verbose=False)
    llama.eval(context)

    def run(new: list[int]) -> object:
        llama.n_tokens = len(context)  # eval drops what the cache holds beyond
        llama.eval(new)
        return llama.scores[llama.n_tokens - 1]

    return run


def load_passes(args: argparse.Namespace, context: list[int]) -> tuple[dict[str, Pass], dict[str, int]]:
    """The methods by name, and the weight bytes each reads for one token where known."""
    folder = default_pair.default_target()
    models: dict[str, Model] = {
        REFERENCE: FastModel.load(folder, "int4"),
        "fast int8": FastModel.load(folder, "int8"),
        "fast int4, torch": torch_only(folder, "int4"),
        "fast float32": FastModel.load(folder, "float32"),
    }
    if args.draft:
        models["draft int4"] = FastModel.load(args.draft, "int4", target=folder)
    if args.hf:
        from sprinter.models.hf import HFModel  # noqa: PLC0415 - transformers takes seconds to import

        models["transformers bfloat16"] = HFModel.load(folder, "bfloat16")
        models["transformers float32"] = HFModel.load(folder, "float32")
        if args.draft:
            models["draft, transformers bfloat16"] = HFModel.load(args.draft, "bfloat16", target=folder)
    passes = {name: model_pass(model, context) for name, model in models.items()}
    llama = llama_pass(context, torch.get_num_threads())
    if llama is not None:
        passes["llama.cpp"] = llama
    return passes, {name: model.info.bytes_per_step for name, model in models.items()}


def copy_gb_per_s() -> float:
    """Best of ten copies of 256 MiB, bytes read plus bytes written."""
    source = torch.zeros(64 * 2**20)
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * source.numel() * 4 / min(times) / 1e9


def measure(passes: dict[str, Pass], repeats: int, rng: np.random.Generator) -> dict[str, dict[int, list[float]]]:
    """Milliseconds by method and length, one per repeat."""
    times: dict[str, dict[int, list[float]]] = {name: {n: [] for n in LENGTHS} for name in passes}
    for repeat in range(repeats + 1):
        for length in LENGTHS:
            for name, run in passes.items():
                # Fresh tokens each time: a backend must not find any of them in its cache.
                run(rng.integers(1000, 40000, 1).tolist())
                new = rng.integers(1000, 40000, length).tolist()
                start = time.perf_counter()
                run(new)
                if repeat:  # the first round warms up
                    times[name][length].append(1e3 * (time.perf_counter() - start))
    return times


def summarise(
    times: dict[str, dict[int, list[float]]], weight_bytes: dict[str, int], bandwidth: float
) -> list[dict[str, object]]:
    rows = []
    for name, by_length in times.items():
        for length, found in by_length.items():
            ratio = np.median(np.array(found) / np.array(times[REFERENCE][length]))
            row: dict[str, object] = {
                "method": name,
                "tokens": length,
                "median_ms": round(float(np.median(found)), 3),
                "p90_ms": round(float(np.quantile(found, 0.9)), 3),
                "min_ms": round(min(found), 3),
                f"median_ratio_to_{REFERENCE.replace(' ', '_')}": round(float(ratio), 3),
            }
            if name in weight_bytes:
                row["bandwidth_limit_ms"] = round(weight_bytes[name] / bandwidth / 1e6, 3)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--context", type=int, default=64, help="tokens in the cache before a timed pass")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draft", type=Path, help="also time this draft of the default target")
    parser.add_argument("--hf", action="store_true", help="also time transformers")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    passes, weight_bytes = load_passes(args, rng.integers(1000, 40000, args.context).tolist())
    bandwidth, load_before = copy_gb_per_s(), os.getloadavg()[0]
    times = measure(passes, args.repeats, rng)
    config = {"repeats": args.repeats, "context": args.context, "threads": torch.get_num_threads()}
    result = {
        **stamp(config, args.seed),
        "load_average": [load_before, os.getloadavg()[0]],
        "copy_gb_per_s": round(bandwidth, 2),
        "weight_bytes_per_step": weight_bytes,
        "results": summarise(times, weight_bytes, bandwidth),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["results"]:
        print(*(f"{value:>24}" for value in list(row.values())), file=sys.stderr)


if __name__ == "__main__":
    main()
