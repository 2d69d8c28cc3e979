"""One request on its way: its texts ordered from the pump, their tokens awaited, the account taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic

from sprinter.core.chance import Chance
from sprinter.core.records import Generation, Token
from sprinter.core.text import Text
from sprinter.errors import ConfigError, SprinterError
from sprinter.observers.logprobs import Logprob, Logprobs
from sprinter.serve.contracts import Agreed, Contracts
from sprinter.serve.grammar import constrained, grammar_of
from sprinter.serve.pump import Event, Order, Pump
from sprinter.serve.requests import ChatRequest, CompletionRequest
from sprinter.streams import Cut, Stream


class BusyError(SprinterError):
    """The queue is full."""


@dataclass(eq=False)
class Written:
    """One text of a request."""

    index: int
    order: Order
    logprobs: Logprobs | None
    tokens: list[Token] = field(default_factory=list)
    made: Generation | None = None
    first_s: float | None = None
    told: int = 0  # tokens whose log-probabilities were handed out

    def fresh_logprobs(self, count: int) -> list[Logprob] | None:
        """Those of the next `count` tokens; None where none are wanted."""
        if self.logprobs is None:
            return None
        start, self.told = self.told, self.told + count
        return self.logprobs.found[start : self.told]


class Requesting:
    """A request's texts. Use as an asynchronous context: leaving it ends what still runs."""

    def __init__(
        self, pump: Pump, contracts: Contracts, asked: CompletionRequest | ChatRequest, limit_s: float
    ) -> None:
        """Raises SprinterError for what cannot be agreed on or begun. `limit_s`: its deadline."""
        self.asked, self._limit_s = asked, limit_s
        self.agreed: Agreed = contracts.agree(asked)
        self._pump, self._contracts = pump, contracts
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._began = monotonic()
        wanted = asked.top_logprobs_wanted
        if wanted is not None and self.agreed.contract != "exact":
            raise ConfigError(
                "logprobs are the target's own, which are known in time with contract 'exact' alone: ask for that, or "
                "for no logprobs"
            )
        form = asked.response_format
        if form is not None and form.type != "text" and self.agreed.contract != "exact":
            raise ConfigError(
                "response_format is kept by testing every token: ask for contract 'exact', or for no response_format"
            )
        self._grammar = None if form is None else grammar_of(form, pump.sprinter.pair.tokenizer)
        self.prompts = self._cut()
        self.writings = [
            self._writing(number, ids, wanted)
            for number, ids in enumerate(ids for ids in self.prompts for _ in range(asked.n))
        ]
        for place, writing in enumerate(self.writings):
            if place % asked.n:
                writing.order.after = self.writings[place - place % asked.n].order

    async def __aenter__(self) -> Requesting:
        if not self._pump.offer([writing.order for writing in self.writings]):
            raise BusyError("the server is at its limit: try again in a moment")
        return self

    async def __aexit__(self, *_: object) -> None:
        for writing in self.writings:
            if writing.made is None:
                self._pump.cancel(writing.order)

    async def events(self) -> AsyncIterator[tuple[Written, list[Token]]]:
        """(text, fresh tokens) as they come; no tokens: that text is finished. Raises what ended one."""
        left = len(self.writings)
        while left:
            index, event = await self._events.get()
            writing = self.writings[index]
            if isinstance(event, SprinterError):
                raise event
            if isinstance(event, Generation):
                writing.made, left = event, left - 1
                self._record(writing)
                yield writing, []
                continue
            if writing.first_s is None:
                writing.first_s = monotonic() - self._began
            writing.tokens += event
            yield writing, event

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts, each once."""
        return sum(map(len, self.prompts))

    def _record(self, writing: Written) -> None:
        """Let the guard hear of a certified text."""
        stream = writing.order.stream
        if self.agreed.contract == "certified" and stream is not None:
            self.agreed = self._contracts.record(self.agreed, stream.audit)

    def _cut(self) -> list[list[int]]:
        tokenizer, asked = self._pump.sprinter.pair.tokenizer, self.asked
        if isinstance(asked, ChatRequest):
            return [tokenizer.encode_chat([message.plain() for message in asked.messages])]
        found = []
        for prompt in asked.prompts:
            if prompt == "":
                raise ConfigError("the prompt is empty: write at least a word to go on from")
            found.append(tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
        return found

    def _writing(self, index: int, ids: list[int], wanted: int | None) -> Written:
        sprinter, config = self._pump.sprinter, self.agreed.config
        seed = config.generation.seed
        if seed is not None:
            config = replace(config, generation=replace(config.generation, seed=seed + index % self.asked.n))
        # An impossible prompt is refused before anything is queued.
        limits = sprinter.pair.limits(config.decoding.way.runs_draft)
        Text(ids, config.generation.max_new_tokens, config.generation.sampling, Chance(0), limits)
        logprobs = None if wanted is None else Logprobs(wanted)
        observers = () if logprobs is None else (logprobs,)
        sampling = None
        if self._grammar is not None:
            sampling = constrained(config.generation.sampling, self._grammar, sprinter.pair.tokenizer, len(ids))
        start: Callable[[], Stream] = partial(sprinter.start, "", config, False, observers, Cut(ids, sampling))
        deliver = partial(self._deliver, index)
        return Written(index, Order(start, deliver, self._began + self._limit_s), logprobs)

    def _deliver(self, index: int, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))
