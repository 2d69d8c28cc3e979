"""The HTTP side: routes, keys, limits, streams, and errors as OpenAI's clients read them."""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from sprinter import __version__
from sprinter.api import Sprinter
from sprinter.door import as_json
from sprinter.errors import CertificateError, SprinterError
from sprinter.serve.answers import Answer, account, provenance, usage_of
from sprinter.serve.contracts import Contracts, Terms
from sprinter.serve.limits import BodyLimit
from sprinter.serve.metrics import Metrics
from sprinter.serve.pump import FailedError, OverdueError, Pump
from sprinter.serve.requesting import BusyError, Requesting, Written
from sprinter.serve.requests import ChatRequest, CompletionRequest

_PAGE: Final = Path(__file__).parent / "page"
_FILES: Final = {"page.css": "text/css", "page.js": "text/javascript"}
_OVERDUE_S: Final = 30.0  # without a sign of life of the engine
_log: Final = logging.getLogger("sprinter.serve")


@dataclass(frozen=True)
class Options:
    """How a server runs."""

    name: str  # of the model, as clients call it
    key: str | None = None  # bearer key; None: none is asked for
    batch: int = 32  # texts written in company
    queue: int = 128  # texts that may wait
    deadline_s: float = 300.0
    drain_s: float = 30.0  # for running texts, when asked to end
    body_bytes: int = 8 << 20
    origins: tuple[str, ...] = ()  # that browsers may call from
    log_prompts: bool = False


def create_app(sprinter: Sprinter, terms: Terms, options: Options) -> FastAPI:
    """The application. `sprinter` should read long prompts in chunks."""
    server = _Server(sprinter, terms, options)
    app = FastAPI(title="Sprinter", version=__version__, lifespan=server.lifespan, docs_url=None, redoc_url=None)
    app.state.pump, app.state.contracts = server.pump, server.contracts
    app.add_middleware(BodyLimit, most=options.body_bytes)
    if options.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_exception_handler(SprinterError, server.refused)
    app.add_exception_handler(RequestValidationError, server.invalid)
    app.add_exception_handler(HTTPException, server.http_error)
    app.add_exception_handler(Exception, server.broken)
    _add_routes(app, server)
    return app


def _add_routes(app: FastAPI, server: _Server) -> None:
    @app.post("/v1/completions", response_model=None)
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        return await server.answer(asked, request)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        return await server.answer(asked, request)

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        server.authorise(request)
        return {"object": "list", "data": [server.model_card()]}

    @app.get("/health", response_model=None)
    async def health() -> Response:
        return server.health()

    @app.get("/ready", response_model=None)
    async def ready() -> Response:
        return JSONResponse({"ready": server.ready}, 200 if server.ready else 503)

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False, response_model=None)
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html", headers={"Content-Security-Policy": "default-src 'self'"})

    @app.get("/favicon.ico", include_in_schema=False, response_model=None)
    async def icon() -> Response:
        return Response(status_code=204)

    @app.get("/page/{name}", include_in_schema=False, response_model=None)
    async def part(name: str) -> Response:
        if name not in _FILES:
            raise HTTPException(404, f"there is no page {name!r}")
        return FileResponse(_PAGE / name, media_type=_FILES[name])


class _Server:
    """What the routes share."""

    def __init__(self, sprinter: Sprinter, terms: Terms, options: Options) -> None:
        self.options, self.sprinter, self.terms = options, sprinter, terms
        self.pump = Pump(sprinter, options.batch, options.queue)
        self.contracts = Contracts(sprinter, terms)
        self.metrics = Metrics(lambda: self.pump.load)
        self.ready = False

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Write while asked, and let what runs at the end finish."""
        self.pump.begin()
        self.ready = True
        yield
        self.ready = False
        await run_in_threadpool(self.pump.stop, self.options.drain_s)
        self.contracts.close()

    def model_card(self) -> dict[str, Any]:
        """What is served, and what it can promise."""
        info = self.sprinter.pair.target.info
        return {
            "id": self.options.name,
            "object": "model",
            "created": 0,
            "owned_by": "sprinter",
            "max_model_len": info.context_length,
            "sprinter": {
                "target": info.name,
                "draft": self.sprinter.pair.draft.info.name,
                "default_contract": self.terms.default,
                "floor": self.terms.floor,
                "certified_levels": self.contracts.levels(),
            },
        }

    def health(self) -> Response:
        """200 while the engine gives signs of life."""
        silent = self.pump.silence_s
        well = silent < _OVERDUE_S
        return JSONResponse({"healthy": well, "engine_silent_s": round(silent, 3)}, 200 if well else 503)

    def authorise(self, request: Request) -> None:
        """HTTPException 401 without the key, 404 for nobody's."""
        key = self.options.key
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
            raise HTTPException(401, "the bearer key is missing or wrong", {"WWW-Authenticate": "Bearer"})

    async def answer(self, asked: CompletionRequest | ChatRequest, request: Request) -> Response:
        """The answer to either kind of request."""
        self.authorise(request)
        if asked.model != self.options.name:
            raise HTTPException(404, f"there is no model {asked.model!r} here: this is {self.options.name!r}")
        if not self.ready:
            raise HTTPException(503, "the server is starting or ending", {"Retry-After": "5"})
        try:
            asking = Requesting(self.pump, self.contracts, asked, self.options.deadline_s)
        except CertificateError:
            self.metrics.refused.inc()
            raise
        if self.options.log_prompts:
            _log.info("prompts %s", asking.prompts)
        fast = self.sprinter.pair.tokenizer.fast
        answer = Answer(
            isinstance(asked, ChatRequest),
            self.options.name,
            lambda token: str(fast.decode([token], skip_special_tokens=False)),
            tools=isinstance(asked, ChatRequest) and asked.offered is not None,
        )
        if asked.stream:
            # Entered here, so that a full queue is a status and not a broken stream.
            await asking.__aenter__()
            return StreamingResponse(self._chunks(asking, answer), media_type="text/event-stream")
        return await self._whole(asking, answer, request)

    async def _whole(self, asking: Requesting, answer: Answer, request: Request) -> Response:
        async with asking:
            async for writing, fresh in asking.events():
                if not fresh:
                    self._took(asking, writing)
                elif await request.is_disconnected():
                    return Response(status_code=499)
        made = [w.made for w in asking.writings if w.made is not None]
        choices = [
            answer.choice(w.index, w.made, None if w.logprobs is None else w.logprobs.found)
            for w in asking.writings
            if w.made is not None
        ]
        told: Any = [account(asking.agreed, one) for one in made]
        return _json(answer.whole(choices, usage_of(made, asking.num_prompt_tokens), told))

    async def _chunks(self, asking: Requesting, answer: Answer) -> AsyncIterator[str]:
        """Server-sent events; leaving early ends the texts."""
        try:
            async for writing, fresh in asking.events():
                if fresh:
                    first = len(writing.tokens) == len(fresh)
                    logprobs = writing.fresh_logprobs(len(fresh))
                    text = writing.sendable(fresh) if answer.tools else "".join(token.text for token in fresh)
                    piece = answer.piece(writing.index, fresh, logprobs, first, text)
                    told = {"tokens": provenance(fresh)}
                    yield _event(answer.chunk([piece], told))
                    continue
                assert writing.made is not None
                self._took(asking, writing)
                yield _event(answer.chunk([answer.end(writing.index, writing.made)], asking.agreed.told(writing.made)))
            options = asking.asked.stream_options
            if options is not None and options.include_usage:
                made = [w.made for w in asking.writings if w.made is not None]
                yield _event({**answer.chunk([]), "usage": usage_of(made, asking.num_prompt_tokens)})
            yield "data: [DONE]\n\n"
        except SprinterError as error:
            yield _event(_error(str(error), _status(error)))
        finally:
            await asking.__aexit__()

    def _took(self, asking: Requesting, writing: Written) -> None:
        made = writing.made
        assert made is not None
        tokens = len(asking.prompts[writing.index // asking.asked.n])
        self.metrics.took(asking.agreed, made, writing.first_s, tokens)
        _log.info(
            "%s %s tokens=%d prompt_tokens=%d target_calls=%d seconds=%.3f end=%s",
            asking.agreed.contract,
            made.method,
            made.num_tokens,
            tokens,
            made.counters.target_calls,
            made.seconds,
            made.finish_reason,
        )

    async def refused(self, request: Request, error: Exception) -> Response:
        """A mistake of the asker's, or a limit, in one JSON error."""
        status = _status(error)
        headers = {"Retry-After": "1"} if status == 503 else None
        return JSONResponse(_error(str(error), status), status, headers)

    async def invalid(self, request: Request, error: Exception) -> Response:
        """A request that does not have the form: which field, and why."""
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return JSONResponse(_error(f"{place}: {first['msg']}", 400), 400)

    async def broken(self, request: Request, error: Exception) -> Response:
        """A bug of ours: the log has it whole."""
        return JSONResponse(_error("the server failed on this request; its log says how", 500), 500)

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Anything the routes refuse."""
        assert isinstance(error, HTTPException)
        return JSONResponse(_error(str(error.detail), error.status_code), error.status_code, error.headers)


def _status(error: Exception) -> int:
    kinds: dict[type[Exception], int] = {BusyError: 503, OverdueError: 504, FailedError: 500}
    return kinds.get(type(error), 400)


def _error(message: str, status: int) -> dict[str, Any]:
    kinds = {
        401: "authentication_error",
        500: "server_error",
        404: "not_found_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
    return {"error": {"message": message, "type": kinds.get(status, "invalid_request_error"), "code": status}}


def _json(content: Any) -> Response:
    return Response(as_json(content), media_type="application/json")


def _event(content: Any) -> str:
    return f"data: {as_json(content)}\n\n"
