"""Milliseconds of draft step, target step and drafted chunk on a GPU, against the time its memory alone would take.

    python benchmarks/gpu_steps.py --out benchmarks/results/gpu-steps.json [--context 256] [--repeats 50]

A chunk is k draft steps with the verifier's score of each, from the upload of its inputs to the host's copy of its
result. The limit is what a step reads, weights and the keys and values its static window covers, over the measured
bandwidth of a device-to-device copy (bytes read plus bytes written). Methods take turns; times are medians on the
host's clock, the device's queue drained before and after. `--device cpu` times the same operations in float32 there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from sprinter.bench.latency import synchronise
from sprinter.core.sampling import Sampling
from sprinter.drafters.chunk import ChunkProgram, Request
from sprinter.gates.verifier import Verifier, load_verifier
from sprinter.models.fast.model import FastModel
from sprinter.provenance import stamp
from sprinter.zoo import default_pair

WIDTHS = (1, 2, 4, 8, 16)  # rows of a target call
CHUNKS = (1, 2, 4, 8, 16)  # steps
TEMPERATURES = (0.0, 1.0)
Timed = tuple[Callable[[], object], float]  # what to time, and the bytes it must read


def bytes_of_step(model: FastModel) -> float:
    """Weights, and all keys and values of the cache as it is now."""
    assert model.stepper is not None
    return float(model.info.bytes_per_step + model.stepper.kv_bytes)


def copy_gb_per_s(device: str, mib: int) -> float:
    """Best of ten copies within the device's memory, bytes read plus bytes written."""
    source = torch.zeros(mib * 2**18, device=device)
    target, times = torch.empty_like(source), []
    for _ in range(10):
        synchronise(device)
        started = perf_counter()
        target.copy_(source)
        synchronise(device)
        times.append(perf_counter() - started)
    return 2 * source.numel() * 4 / min(times) / 1e9


def steps_of(name: str, model: FastModel, context: list[int], widths: tuple[int, ...]) -> dict[str, Timed]:
    """Forward passes over 1, 2, 4, ... new tokens behind `context`, logits copied to the host."""
    found: dict[str, Timed] = {}
    for width in widths:
        new = [(7 * place) % 90 + 2 for place in range(width)]
        run = lambda new=new: model.forward([*context, *new], len(new))  # noqa: E731 - bound here
        run()  # so that the cache has its size, which the bytes depend on
        found[f"{name}, {width} row{'s' if width > 1 else ''}"] = (run, bytes_of_step(model))
    return found


def chunks_of(draft: FastModel, verifier: Verifier, vocab_size: int, context: list[int]) -> dict[str, Timed]:
    """Chunks of 1, 2, 4, ... steps with scores, greedy and sampled."""
    found: dict[str, Timed] = {}
    for temperature in TEMPERATURES:
        for length in CHUNKS:
            program = ChunkProgram(draft, Sampling(temperature), vocab_size, length, verifier)
            uniforms = np.random.default_rng(length).random(program.num_uniforms).tolist()
            run = lambda program=program, uniforms=uniforms: program.launch(Request(context, uniforms))  # noqa: E731
            run()
            name = f"chunk of {length}, temperature {temperature:g}"
            found[name] = (run, length * bytes_of_step(draft))
    return found


def measure(work: dict[str, Timed], repeats: int, device: str) -> dict[str, list[float]]:
    """Milliseconds by name, one per repeat; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, (run, _) in work.items():
            synchronise(device)
            started = perf_counter()
            run()
            synchronise(device)
            if repeat:
                times[name].append(1e3 * (perf_counter() - started))
    return times


def rows_of(work: dict[str, Timed], times: dict[str, list[float]], gb_per_s: float) -> list[dict[str, Any]]:
    rows = []
    for name, (_, read) in work.items():
        median, limit = float(np.median(times[name])), read / gb_per_s / 1e6
        rows.append(
            {
                "what": name,
                "median_ms": round(median, 4),
                "p90_ms": round(float(np.quantile(times[name], 0.9)), 4),
                "mb_read": round(read / 1e6, 2),
                "limit_ms": round(limit, 4),
                "share_of_limit": round(limit / median, 3),
            }
        )
    return rows


def main() -> int:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--target", type=Path, help="default: the default pair's")
    reader.add_argument("--draft", type=Path, help="default: the default pair's")
    reader.add_argument("--verifier", type=Path, help="default: the default pair's")
    reader.add_argument("--device", default="cuda")
    reader.add_argument("--context", type=int, default=256, help="tokens before what is timed")
    reader.add_argument("--repeats", type=int, default=50)
    reader.add_argument("--copy-mib", type=int, default=1024, help="size of the copy that measures the bandwidth")
    given = reader.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu_steps: this machine has no usable CUDA device, so nothing was measured", file=sys.stderr)
        return 2
    folder = given.target or default_pair.default_target()
    weights = "bfloat16" if given.device.startswith("cuda") else "float32"
    target = FastModel.load(folder, weights, given.device)
    draft = FastModel.load(given.draft or default_pair.default_draft(), weights, given.device, target=folder)
    verifier = load_verifier(given.verifier or default_pair.default_verifier())
    known = min(target.info.vocab_size, draft.info.vocab_size)
    context = np.random.default_rng(0).integers(2, known, given.context).tolist()
    work = {
        **steps_of("draft step", draft, context, (1,)),
        **steps_of("target step", target, context, WIDTHS),
        **chunks_of(draft, verifier, known, context),
    }
    gb_per_s = copy_gb_per_s(given.device, given.copy_mib)
    rows = rows_of(work, measure(work, given.repeats, given.device), gb_per_s)
    config = {name: getattr(given, name) for name in ("device", "context", "repeats", "copy_mib")}
    on_gpu = given.device.startswith("cuda")
    result = {
        **stamp({**config, "weights": weights}, 0),
        "device_name": torch.cuda.get_device_name(given.device) if on_gpu else "cpu",
        "copy_gb_per_s": round(gb_per_s, 2),
        "results": rows,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['device_name']}, copy bandwidth {gb_per_s:.1f} GB/s")
    print(f"{'':32}{'ms':>10}{'p90 ms':>10}{'MB read':>10}{'limit ms':>10}{'share':>8}")
    for row in rows:
        numbers = (row["median_ms"], row["p90_ms"], row["mb_read"], row["limit_ms"])
        print(f"{row['what']:32}" + "".join(f"{n:10.3f}" for n in numbers) + f"{row['share_of_limit']:8.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
