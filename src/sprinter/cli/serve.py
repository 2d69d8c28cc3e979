"""sprinter serve: an OpenAI-compatible server with a quality contract for every request."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import typer

from sprinter.cli.options import PAIR, Given, with_settings
from sprinter.errors import ConfigError


@with_settings(*PAIR)
def serve(
    settings: Given,
    host: str = typer.Option("127.0.0.1", help="Address to listen on; 0.0.0.0 for every one."),
    port: int = typer.Option(8080, help="Port to listen on.", min=0, max=65535),
    name: str | None = typer.Option(None, "--name", help="What clients call the model; default: the target's name."),
    api_key_env: str | None = typer.Option(
        None, "--api-key-env", help="Environment variable that holds the key clients must bring; default: none."
    ),
    contract: str = typer.Option("exact", help="Of requests that name none: exact, certified or best_effort."),
    floor: str = typer.Option("best_effort", help="The weakest contract that is accepted."),
    max_tv: float | None = typer.Option(None, "--max-tv", help="Level of certified requests that name none."),
    max_atypical: float | None = typer.Option(None, "--max-atypical", help="The same for atypical tokens."),
    confidence: float = typer.Option(0.95, help="Least confidence of certificates."),
    certificate: Path | None = typer.Option(None, help=r"Certificate, or folder of them \[default: the shipped ones]."),
    guard: Path | None = typer.Option(
        None, "--guard", help="File in which it is watched whether certified promises hold; servers may share it."
    ),
    max_tokens: int = typer.Option(512, "--max-tokens", help="Of requests that name no number.", min=1),
    batch: int = typer.Option(32, help="Texts written in company.", min=1),
    queue: int = typer.Option(128, help="Texts that may wait for room; beyond, clients are told to come again.", min=1),
    deadline: float = typer.Option(300.0, help="Seconds a request may take.", min=0.1),
    drain: float = typer.Option(30.0, help="Seconds that running texts have when the server is asked to end.", min=0),
    max_body: int = typer.Option(8 << 20, "--max-body", help="Largest request in bytes.", min=1024),
    cors: list[str] | None = typer.Option(None, "--cors", help="Origin that browsers may call from; * for all."),
    schedule: str = typer.Option(
        "faithful", help="faithful (company changes no text) or cheapest (under load the target writes: docs/batch.md)."
    ),
    log_prompts: bool = typer.Option(False, "--log-prompts", help="Write prompts, as token ids, to the log."),
) -> None:
    """Serve the pair over HTTP, as OpenAI's clients expect it; http://HOST:PORT/ is a page to try it.

    Every request states what it may lose: exact (nothing), certified (at most what a certificate proves) or
    best_effort.

    Examples:

      sprinter serve

      sprinter serve --contract certified --max-atypical 0.02 --guard guard.db --api-key-env SPRINTER_KEY
    """
    try:
        import uvicorn

        from sprinter.serve.app import Options, create_app
    except ImportError as error:
        raise ConfigError(f"serving needs more packages ({error}): pip install 'sprinter-decoding[serve]'") from None
    from sprinter.api import Sprinter
    from sprinter.build import Pair
    from sprinter.config import make_config
    from sprinter.serve.contracts import Terms

    levels: dict[str, Any] = {"max_tv": max_tv, "max_atypical": max_atypical}
    if max_tv is None and max_atypical is None:
        levels = {}
    config = make_config(None, settings)
    terms = Terms(
        default=contract,  # type: ignore[arg-type]  # checked there
        floor=floor,  # type: ignore[arg-type]
        confidence=confidence,
        certificates=certificate,
        guard=guard,
        max_tokens=max_tokens,
        **levels,
    )
    sprinter = Sprinter(Pair(config.models), schedule, chunk=_CHUNK)
    # Before the port is taken: a wrong pair is one line, not a server that cannot answer.
    sprinter.generate("Hello", method="exact", max_new_tokens=2)
    shown = name or sprinter.pair.target.info.name
    options = Options(
        name=shown,
        key=_key(api_key_env),
        batch=batch,
        queue=queue,
        deadline_s=deadline,
        drain_s=drain,
        body_bytes=max_body,
        origins=tuple(cors or ()),
        log_prompts=log_prompts,
    )
    with _listening(host, port) as listening:
        at = f"[{host}]" if ":" in host else host
        told = f"serving {shown} at http://{at}:{listening.getsockname()[1]}/"
        typer.echo(f"{told} (contract {contract} by default, floor {floor})", err=True)
        app = create_app(sprinter, terms, options)
        ends_s = int(drain) + 1
        uvicorn.Server(uvicorn.Config(app, access_log=False, timeout_graceful_shutdown=ends_s)).run([listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host} port {port} ({error}): choose another with --port") from None


_CHUNK = 256  # rows of a long prompt in one tick


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(f"the environment variable {variable} holds no key: set it, or leave out --api-key-env")
    return key
