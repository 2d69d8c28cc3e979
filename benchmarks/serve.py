"""Our server beside llama.cpp's on the same weights: tokens/s by company, and the time to the first token.

    python benchmarks/serve.py --out FILE [--requests 24] [--companies 1 4 16] [--peer]     # pip install xllamacpp

Each server runs in a process of its own with two threads; a closed loop of so many clients asks for 64 greedy tokens
each, over HTTP, streamed. With --peer llama.cpp gets the weights in Q4_0, which it has fast paths for (requantised from
the target's file); servers then take turns, company by company, and stand still while it is not theirs. `direct` writes
one text after another in this process, without HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

from sprinter import Sprinter
from sprinter.bench.probe_prompts import PROBE_PROMPTS
from sprinter.provenance import stamp
from sprinter.zoo.default_pair import find_target_gguf

TOKENS = 64
LLAMA = """
import sys, threading
import xllamacpp as x
p = x.CommonParams()
p.model.path, p.hostnames, p.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
p.n_parallel, p.n_ctx, p.cpuparams.n_threads, p.cpuparams_batch.n_threads = 16, 16 * 1024, 2, 2
p.verbosity = -1
server = x.Server(p)
threading.Event().wait()
"""
LONG = (
    "The following notes describe how a small workshop repairs clocks, step by step, and why each step matters. " * 10
)


@dataclass
class Served:
    """What one server did in one company."""

    tokens: int = 0
    seconds: float = 0.0
    firsts: list[float] = field(default_factory=list)


def to_q4_0(source: Path, out: Path) -> None:
    """The same weights in the format that llama.cpp computes fastest."""
    reader = GGUFReader(source)
    arch = reader.get_field("general.architecture").contents()
    writer = GGUFWriter(out, arch)
    for name, told in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = told.types[0]
        sub = told.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, told.contents(), kind, sub_type=sub)
    wanted = GGMLQuantizationType.Q4_0
    for tensor in reader.tensors:
        values = tensor.data
        if tensor.tensor_type == GGMLQuantizationType.Q4_1:
            values = quantize(dequantize(tensor.data, tensor.tensor_type), wanted)
            writer.add_tensor(tensor.name, values, raw_dtype=wanted)
        else:
            writer.add_tensor(tensor.name, values, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def started(command: list[str], port: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    log = (Path(tempfile.gettempdir()) / f"serve-{port}.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200:
                return process
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            raise SystemExit(f"{command[:4]} ended with {process.returncode}")
        time.sleep(0.1)
    raise SystemExit(f"{command[:4]} does not answer")


async def one(client: httpx.AsyncClient, url: str, ask: dict[str, Any], served: Served) -> None:
    began, first, tokens = perf_counter(), None, 0
    async with client.stream("POST", f"{url}/v1/completions", json=ask) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"{url}: {(await answer.aread())[:300]!r}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if first is None and any(choice.get("text") for choice in event["choices"]):
                first = perf_counter() - began
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    served.tokens += tokens
    served.firsts.append(first if first is not None else perf_counter() - began)


async def load(url: str, model: str, more: dict[str, Any], prompts: list[str], company: int) -> Served:
    """A closed loop of `company` clients."""
    served, waiting = Served(), list(prompts)
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_keepalive_connections=0)) as client:

        async def worker() -> None:
            while waiting:
                ask = {"model": model, "prompt": waiting.pop(0), "max_tokens": TOKENS, "temperature": 0, "stream": True}
                await one(client, url, {**ask, "stream_options": {"include_usage": True}, **more}, served)

        began = perf_counter()
        await asyncio.gather(*(worker() for _ in range(company)))
        served.seconds = perf_counter() - began
    return served


@dataclass(frozen=True)
class Server:
    """Where it is, and what to add to a request."""

    port: int
    model: str
    more: dict[str, Any]
    process: subprocess.Popen[bytes]


def turn(server: Server, prompts: list[str], company: int) -> Served:
    """Let one server run."""
    server.process.send_signal(signal.SIGCONT)
    try:
        return asyncio.run(load(f"http://127.0.0.1:{server.port}", server.model, server.more, prompts, company))
    finally:
        server.process.send_signal(signal.SIGSTOP)


def direct(writer: Sprinter, prompts: list[str]) -> float:
    """Tokens/s of one text after another, without a server."""
    began, tokens = perf_counter(), 0
    for prompt in prompts:
        made = writer.generate(prompt, method="exact", max_new_tokens=TOKENS)
        tokens += made.num_tokens
    return tokens / (perf_counter() - began)


def measure(given: argparse.Namespace, servers: dict[str, Server]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    prompts = [f"{prompt}" for prompt in PROBE_PROMPTS]
    wanted = [prompts[n % len(prompts)] for n in range(given.requests)]
    for server in servers.values():
        turn(server, prompts[:4], 2)  # warm
    for company in given.companies:
        rates: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(given.rounds):
            for name, server in servers.items():
                served = turn(server, wanted, company)
                rates[name].append(served.tokens / served.seconds)
        results[f"company {company}"] = {name: round(float(np.median(own)), 1) for name, own in rates.items()}
        print(company, results[f"company {company}"], file=sys.stderr)
    firsts = {}
    for name, server in servers.items():
        served = turn(server, [f"{name} {n}. {LONG}" for n in range(16)], 4)  # no two share a prefix
        firsts[name] = round(float(np.quantile(served.firsts, 0.95)), 3)
    results["first token, p95, company 4, 200-token prompts"] = firsts
    print(firsts, file=sys.stderr)
    return results


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--requests", type=int, default=24)
    reader.add_argument("--rounds", type=int, default=2)
    reader.add_argument("--companies", type=int, nargs="+", default=[1, 4, 16])
    reader.add_argument("--peer", action="store_true")
    reader.add_argument("--schedule", default="cheapest")
    given = reader.parse_args()
    source = find_target_gguf()
    if source is None:
        raise SystemExit("the default target is not installed: make demo")
    with tempfile.TemporaryDirectory() as folder:
        q4_0 = Path(folder) / "q4_0.gguf"
        to_q4_0(source, q4_0)
        kinds = ["plain"] if given.peer else []
        ports = [free_port() for _ in ("us", *kinds)]
        us = [sys.executable, "-m", "sprinter", "serve", "--port", str(ports[0]), "--schedule", given.schedule]
        own = started(us, ports[0])
        name = httpx.get(f"http://127.0.0.1:{ports[0]}/v1/models").json()["data"][0]["id"]
        own.send_signal(signal.SIGSTOP)
        servers = {
            contract: Server(ports[0], name, {"sprinter": {"contract": contract, **more}}, own)
            for contract, more in (("exact", {}), ("certified", {"max_atypical": 0.02}), ("best_effort", {}))
        }
        try:
            for port, kind in zip(ports[1:], kinds, strict=True):
                process = started([sys.executable, "-c", LLAMA, str(q4_0), str(port), kind], port)
                process.send_signal(signal.SIGSTOP)
                servers[f"llama.cpp, {kind}"] = Server(port, "x", {"ignore_eos": True}, process)
            results = measure(given, servers)
        finally:
            for server in servers.values():
                server.process.kill()
    writer = Sprinter.from_pretrained()
    direct(writer, list(PROBE_PROMPTS[:2]))
    results["direct, exact, tokens/s"] = round(direct(writer, [p for p in PROBE_PROMPTS for _ in range(2)][:24]), 1)
    print("direct", results["direct, exact, tokens/s"], file=sys.stderr)
    used = {"requests": given.requests, "companies": given.companies, "schedule": given.schedule}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"results": results, "record": stamp(used, 0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
