"""Sprinter in Python: load a pair once, write any number of texts, alone or in company."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, overload

from sprinter.build import Pair, build_recipe
from sprinter.certify.asked import Asked
from sprinter.certify.choose import Choice, Wish, grant
from sprinter.config import Config, DecodingConfig, GenerationConfig, ModelConfig, make_config
from sprinter.core.protocols import Observer, Recipe
from sprinter.core.records import Generation, Token
from sprinter.core.rows import ModelInfo
from sprinter.core.settings import choice, from_mapping
from sprinter.driver import Driver
from sprinter.engine import Engine
from sprinter.errors import BatchError, CertificateWarning, ConfigError, SprinterError
from sprinter.observers.clock import Stopwatch
from sprinter.scheduler import Cheapest, Curves
from sprinter.streams import Cut, Stream

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]  # a text to go on from, or the messages of a chat

R = TypeVar("R")

SCHEDULES = ("faithful", "cheapest")
_MOST_READERS = 256  # asynchronous texts that are waited for at the same time
_MOST_RECIPES = 64  # settings whose parts are kept


class Settings(TypedDict, total=False):
    """What `generate` and `stream` can be told: the fields of DecodingConfig, GenerationConfig and Wish."""

    method: str
    drafter: str | None
    gate: str | None
    rule: str | None
    preset: str
    scorer: str
    threshold: float | None
    lookahead: float | None
    budget: float | None
    max_draft: int | None
    draft_length: int | None
    draft_chunk: int | None
    fallback: float | None
    rollback: float | None
    references: Sequence[str]
    copy_match: int
    copy_length: int
    branches: int
    depth: int
    merge: int
    graph_nodes: int
    graph_width: int
    graph_depth: int
    graph_ratio: float
    graph_floor: float
    skip_share: float
    skip_search: int
    confidence_floor: float
    options: Sequence[str]
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    stop: Sequence[str]
    seed: int | None
    max_total_tv: float | None
    max_atypical_tokens: int | None
    audit: str
    max_tv: float | None
    max_atypical: float | None
    max_excess: float | None
    max_deficit: float | None
    max_repeated: float | None
    confidence: float
    certificate: Path | str | None


@dataclasses.dataclass(frozen=True)
class Request:
    """One text of a list with settings of its own, which go before those of the call.

    >>> Request("A compiler is", {"method": "exact", "max_new_tokens": 20}).settings["method"]
    'exact'
    """

    prompt: Prompt
    settings: Settings = dataclasses.field(default_factory=Settings)


class Sprinter:
    """A pair of models with its verifier, ready to write. Threads may share one.

    >>> writer = Sprinter.from_pretrained()                                    # doctest: +SKIP
    >>> writer.generate("The three laws of robotics are", max_new_tokens=40).text  # doctest: +SKIP
    """

    def __init__(self, pair: Pair, schedule: str = "faithful", chunk: int | None = None) -> None:
        """`schedule`: see `from_pretrained`; `chunk`: see `Engine`."""
        choice("schedule", schedule, SCHEDULES)
        self.pair, self.schedule, self.chunk = pair, schedule, chunk
        self._recipes = lru_cache(maxsize=_MOST_RECIPES)(lambda config: build_recipe(self.pair, config))
        self._loading = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        target: str | Path = "default",
        draft: str | Path = "default",
        verifier: str | Path = "default",
        *,
        backend: str = "auto",
        weights: str = "auto",
        device: str = "cpu",
        schedule: str = "faithful",
        **others: Any,
    ) -> Sprinter:
        """Choose a pair. Models load at their first use.

        `schedule` is for many texts at once. "faithful": company changes no text. "cheapest": where plain target rows
        are cheaper than drafts, by curves measured on this machine, the target writes; then a text is as good as its
        method promises or better, but depends on its company.

        Raises ConfigError for a setting out of range, and for one that is none (`others`), naming those there are.
        """
        names = {"target": str(target), "draft": str(draft), "verifier": str(verifier)}
        told = {**names, "backend": backend, "weights": weights, "device": device, **others}
        return cls(Pair(from_mapping(ModelConfig, told, "settings of the models")), schedule)

    def __repr__(self) -> str:
        config = self.pair.config
        return f"<Sprinter target={config.target!r} draft={config.draft!r} verifier={config.verifier!r}>"

    @overload
    def generate(self, prompt: str, *, chat: bool = ..., **settings: Unpack[Settings]) -> Generation: ...
    @overload
    def generate(self, prompt: Sequence[Message], *, chat: bool = ..., **settings: Unpack[Settings]) -> Generation: ...
    @overload
    def generate(
        self, prompt: list[str | Request | Sequence[Message]], *, chat: bool = ..., **settings: Unpack[Settings]
    ) -> list[Generation]: ...
    def generate(self, prompt: Any, *, chat: bool = False, **settings: Unpack[Settings]) -> Any:
        """Write one text, or a list of texts in company: a list gives a list, in its order.

        A prompt is a string, or a list of messages ({"role": ..., "content": ...}) for the model's chat template. An
        entry of a list may be a `Request`, with settings of its own; text i of a list uses `seed` + i.

        With `max_tv` or `max_atypical` a text is written by a certificate (`confidence` and `certificate` say which),
        and a CertificateWarning says what that leaves unproven. Raises ConfigError, BackendError, DataError,
        CapabilityError or CertificateError, each saying what to do; for a list a BatchError when all others are done.
        """
        if _is_one(prompt):
            return self.stream(prompt, chat=chat, **settings).generation
        done = dict(self.generate_many(prompt, chat=chat, **settings))
        failed = {place: found for place, found in done.items() if isinstance(found, SprinterError)}
        if failed:
            raise BatchError(failed, done)
        return [done[place] for place in range(len(done))]

    def generate_many(
        self,
        prompts: Sequence[str | Request | Sequence[Message]],
        *,
        chat: bool = False,
        batch: int = 16,
        **settings: Unpack[Settings],
    ) -> Iterator[tuple[int, Generation | SprinterError]]:
        """(place, text) of a list of prompts as they are done, `batch` at a time; an impossible one gives its error."""
        texts = (partial(self._opened, entry, chat, settings, place) for place, entry in enumerate(prompts))
        return self.in_company(texts, batch)

    def in_company(
        self, texts: Iterable[Callable[[], Stream]], batch: int = 16
    ) -> Iterator[tuple[int, Generation | SprinterError]]:
        """(place, text) of whatever the calls in `texts` start, as they are done; at most `batch` at a time."""
        if batch < 1:
            raise ConfigError(f"batch is {batch}, but must be at least 1")
        waiting, running = enumerate(texts), dict[int, Stream]()
        try:
            while True:
                while len(running) < batch and (entry := next(waiting, None)) is not None:
                    place, start = entry
                    try:
                        running[place] = start()
                    except SprinterError as error:
                        yield place, error
                if not running:
                    return
                self.driver.wait([stream.text for stream in running.values()])
                for place, stream in list(running.items()):
                    try:
                        if stream.advance():
                            yield place, running.pop(place).generation
                    except SprinterError as error:
                        del running[place]
                        yield place, error
        finally:
            for stream in running.values():
                stream.close()

    def stream(self, prompt: Prompt, *, chat: bool = False, **settings: Unpack[Settings]) -> Stream:
        """As `generate`, token by token: iterate the result. Any number at once, from any threads; `close` ends one."""
        return self.start(prompt, self._settings(dict(settings), chat or not isinstance(prompt, str)), chat)

    async def agenerate(self, prompt: Prompt, *, chat: bool = False, **settings: Unpack[Settings]) -> Generation:
        """`generate` for asynchronous programs; texts awaited together are written in company."""
        stream = await self._aside(lambda: self.stream(prompt, chat=chat, **settings))
        try:
            return await self._aside(lambda: stream.generation)
        finally:
            stream.close()

    async def astream(
        self, prompt: Prompt, *, chat: bool = False, **settings: Unpack[Settings]
    ) -> AsyncIterator[Token]:
        """`stream` for asynchronous programs: `async for token in writer.astream(...)`; leaving the loop ends it."""
        stream = await self._aside(lambda: self.stream(prompt, chat=chat, **settings))
        tokens = iter(stream)
        try:
            while (token := await self._aside(lambda: next(tokens, None))) is not None:
                yield token
        finally:
            stream.close()

    def start(
        self,
        prompt: Prompt,
        config: Config,
        chat: bool = False,
        observers: Sequence[Observer] = (),
        cut: Cut | None = None,
    ) -> Stream:
        """As `stream`, from a whole Config; its models are those of this Sprinter.

        `observers` look on. `cut` is the prompt in tokens, where they are known; `prompt` is then what it is called.
        """
        with self._loading:  # models and recipes are made once, whichever thread asks first
            recipe = self.recipe(config.decoding)
            return Stream(self.driver, self.pair, config, recipe, prompt, chat, observers, cut)

    def certified(
        self, config: Config, wish: Wish, given: Collection[str] = (), chat: bool = False
    ) -> tuple[Config, Choice]:
        """`config` with what the certificate that grants `wish` prescribes; `given`: see `certify.choose.grant`.

        A length that nobody asked for becomes the certificate's own.
        """
        generation = config.generation
        own = generation.max_new_tokens != GenerationConfig().max_new_tokens or "max_new_tokens" in given
        num_tokens = generation.max_new_tokens if own else 0
        asked = Asked(generation.sampling, num_tokens, generation.budget, chat)
        choice = grant(wish, self.pair, config.decoding, asked, given)
        if not own and math.isfinite(choice.threshold):
            length = dataclasses.replace(generation, max_new_tokens=choice.certificate.max_new_tokens)
            config = dataclasses.replace(config, generation=length)
        return choice.at(choice.threshold, config), choice

    def running(self, config: Config) -> list[ModelInfo]:
        """The models a config's method runs, target first."""
        pair, drafts = self.pair, config.decoding.way.runs_draft
        return [pair.target.info, pair.draft.info] if drafts else [pair.target.info]

    def recipe(self, config: DecodingConfig) -> Recipe:
        """The parts for a config's method; those of the last few settings are kept."""
        found: Recipe = self._recipes(config)
        return found

    @cached_property
    def driver(self) -> Driver:
        scheduler = None
        if self.schedule == "cheapest":
            scheduler = Cheapest(Curves.measured(self.pair.draft, self.pair.target))
        return Driver(Engine(self.pair.target, scheduler, [Stopwatch()], self.chunk))

    @cached_property
    def _readers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_MOST_READERS, thread_name_prefix="sprinter")

    async def _aside(self, do: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._readers, do)

    def _opened(self, entry: str | Request | Sequence[Message], chat: bool, settings: Settings, place: int) -> Stream:
        """The stream of an entry of a list."""
        request = entry if isinstance(entry, Request) else Request(entry)
        merged: dict[str, Any] = {**settings, **request.settings}
        if settings.get("seed") is not None and "seed" not in request.settings:
            merged["seed"] = int(settings["seed"] or 0) + place
        if not _is_one(request.prompt):
            raise ConfigError(f"a prompt must be a string or a list of messages, not {type(request.prompt).__name__}")
        return self.start(request.prompt, self._settings(merged, chat or not isinstance(request.prompt, str)), chat)

    def _settings(self, settings: dict[str, Any], chat: bool) -> Config:
        """A Config from keyword arguments, by certificate where they hold a wish."""
        names = {field.name for field in dataclasses.fields(Wish)}
        wish = Wish(**{name: value for name, value in settings.items() if name in names})
        own = {name: value for name, value in settings.items() if name not in names}
        config = make_config(None, own, also=names)
        if not wish.levels:
            return config
        with self._loading:
            config, choice = self.certified(config, wish, own, chat)
        if choice.caveat is not None:
            warnings.warn(choice.caveat, CertificateWarning, stacklevel=4)
        return config


def _is_one(prompt: Any) -> bool:
    """Whether this is one prompt: a string, or a list of messages that is not empty."""
    if isinstance(prompt, str):
        return True
    return isinstance(prompt, Sequence) and bool(prompt) and all(isinstance(entry, Mapping) for entry in prompt)
