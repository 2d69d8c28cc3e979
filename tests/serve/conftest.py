"""A real server of toy models on a port of its own."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from tokenizers import decoders

from sprinter.api import Sprinter
from sprinter.models.tokenizer import Tokenizer
from sprinter.serve.app import Options, create_app
from sprinter.serve.contracts import Terms
from tests.support.bench_toys import toy_bench

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
NAME = "toy"


def toy_sprinter(chunk: int | None = 16, pause_s: float = 0.0, eos: tuple[int, ...] = ()) -> Sprinter:
    """Toys that know the words w0 .. w11, with a chat template; a pass of the target takes `pause_s` at least."""
    pair = toy_bench().pair
    target = pair.target
    forward = target.forward
    target.passes = 0  # type: ignore[attr-defined]

    def slowly(parts: Any) -> Any:
        target.passes += 1  # type: ignore[attr-defined]
        time.sleep(pause_s)
        return forward(parts)

    target.forward = slowly  # type: ignore[method-assign]
    known = pair.tokenizer
    known.fast.decoder = decoders.ByteLevel()  # words are bytes without a space between them
    pair.__dict__["tokenizer"] = Tokenizer(known.fast, None, frozenset(eos), TEMPLATE, {})
    return Sprinter(pair, chunk=chunk)


@dataclass
class Served:
    """A server that runs."""

    url: str
    app: FastAPI
    sprinter: Sprinter

    def post(self, path: str, **fields: object) -> httpx.Response:
        content, headers = json.dumps({"model": NAME, **fields}), {"content-type": "application/json"}
        return httpx.post(f"{self.url}{path}", content=content, headers=headers, timeout=60)

    def complete(self, prompt: object = "w1 w2", **fields: object) -> httpx.Response:
        return self.post("/v1/completions", prompt=prompt, **fields)


@contextmanager
def serving(
    terms: Terms | None = None, options: Options | None = None, sprinter: Sprinter | None = None
) -> Iterator[Served]:
    """A server for the time of a block."""
    pair = toy_sprinter() if sprinter is None else sprinter
    app = create_app(pair, terms or Terms(), options or Options(NAME))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        end = time.monotonic() + 20
        while not server.started and time.monotonic() < end:
            time.sleep(0.01)
        assert server.started
        try:
            yield Served(f"http://127.0.0.1:{port}", app, pair)
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as found:
        yield found
