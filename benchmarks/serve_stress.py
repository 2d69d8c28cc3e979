"""What a server bears: mutated requests, many streams at once, clients that leave. It takes minutes, on a real pair.

    python benchmarks/serve_stress.py --out FILE [--mutations 5000] [--streams 200]

Every answer to a mutated request must be 200, or one JSON error below 500. All streams must finish; half of another
batch leave in the middle, and the server must then be idle. Memory is the server's own, before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx

from sprinter.provenance import stamp

STRANGE: list[Any] = [
    None, [], {}, "", -1, 0, 10**30, 1.5, 1e308, True, "w", [[1]], {"a": {"b": [1]}}, "\ud800", [None], [1.5],
    "A" * 5000, [0] * 3000, {"type": "json_schema"}, {"contract": "certified"}, {"include_usage": 1}, "exact",
]  # fmt: skip
JSON = {"content-type": "application/json"}
FIELDS = (
    "model", "prompt", "messages", "max_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed", "logprobs",
    "stream", "stream_options", "response_format", "tools", "sprinter", "logit_bias", "user", "nonsense", "echo",
)  # fmt: skip


def mutated(dice: random.Random, model: str) -> bytes:
    """A request with one to three fields that are something else; sometimes its bytes are damaged too."""
    chat = dice.random() < 0.4
    ask: dict[str, Any] = {"model": model, "max_tokens": 2, "temperature": 0}
    ask |= {"messages": [{"role": "user", "content": "Hi"}]} if chat else {"prompt": "A compiler is"}
    for _ in range(dice.randrange(1, 4)):
        ask[dice.choice(FIELDS)] = dice.choice(STRANGE)
    if isinstance(ask.get("max_tokens"), int) and ask["max_tokens"] > 64:
        ask["max_tokens"] = 64
    content = bytearray(json.dumps(ask).encode())
    if dice.random() < 0.2:
        for _ in range(dice.randrange(1, 6)):
            content[dice.randrange(len(content))] = dice.randrange(256)
    return bytes(content)


async def mutations(url: str, model: str, count: int) -> Counter[str]:
    dice, found = random.Random(7), Counter[str]()
    bodies = [mutated(dice, model) for _ in range(count)]
    async with httpx.AsyncClient(timeout=60) as client:

        async def worker() -> None:
            while bodies:
                body = bodies.pop()
                path = random.choice(("/v1/completions", "/v1/chat/completions"))
                began = perf_counter()
                try:
                    answer = await client.post(url + path, content=body, headers=JSON)
                except httpx.TimeoutException:
                    raise SystemExit(f"no answer within a minute to {body[:300]!r}") from None
                found["slowest, s"] = max(found["slowest, s"], round(perf_counter() - began))
                streamed = answer.headers.get("content-type", "").startswith("text/event-stream")
                if answer.status_code != 200 and "error" not in answer.json():
                    raise SystemExit(f"no error in {answer.text!r} to {body!r}")
                if answer.status_code >= 500 and answer.status_code != 503:
                    raise SystemExit(f"{answer.status_code} to {body!r}")
                found[f"{answer.status_code}{' streamed' if streamed else ''}"] += 1

        await asyncio.gather(*(worker() for _ in range(8)))
    return found


async def streams(url: str, model: str, count: int, leave: bool) -> tuple[int, float]:
    """(streams that ended with [DONE], seconds)."""
    limits = httpx.Limits(max_connections=count + 4, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:

        async def one(number: int) -> bool:
            ask = {"model": model, "prompt": f"Note {number}:", "max_tokens": 32, "temperature": 1, "seed": number}
            async with client.stream("POST", f"{url}/v1/completions", json={**ask, "stream": True}) as answer:
                last = ""
                async for line in answer.aiter_lines():
                    last = line or last
                    if leave and number % 2:
                        return False
                return last == "data: [DONE]"

        began = perf_counter()
        done = await asyncio.gather(*(one(number) for number in range(count)))
        return sum(done), perf_counter() - began


def memory_mib(process: int) -> float:
    line = next(x for x in Path(f"/proc/{process}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--mutations", type=int, default=5000)
    reader.add_argument("--streams", type=int, default=200)
    given = reader.parse_args()
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "sprinter", "serve", "--port", str(port), "--queue", str(2 * given.streams)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        for _ in range(300):
            time.sleep(0.2)
            try:
                model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
                break
            except httpx.HTTPError:
                continue
        asyncio.run(streams(url, model, 8, leave=False))
        results: dict[str, Any] = {"memory before, MiB": round(memory_mib(process.pid))}
        results["mutations"] = dict(asyncio.run(mutations(url, model, given.mutations)))
        results["memory after mutations, MiB"] = round(memory_mib(process.pid))
        done, seconds = asyncio.run(streams(url, model, given.streams, leave=False))
        results |= {"streams": given.streams, "finished": done, "seconds": round(seconds, 1)}
        results["memory after streams, MiB"] = round(memory_mib(process.pid))
        asyncio.run(streams(url, model, given.streams, leave=True))
        time.sleep(1)
        text = httpx.get(f"{url}/metrics").text
        idle = [line for line in text.splitlines() if line.startswith("sprinter:num_requests")]
        results |= {"after clients left": idle, "memory at the end, MiB": round(memory_mib(process.pid))}
    finally:
        process.kill()
    print(json.dumps(results, indent=1), file=sys.stderr)
    used = {"mutations": given.mutations, "streams": given.streams}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"results": results, "record": stamp(used, 0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
