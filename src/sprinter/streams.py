"""A text as its reader sees it: tokens as they come, afterwards the whole account."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from sprinter.build import Pair
from sprinter.config import Config
from sprinter.core.chance import Chance
from sprinter.core.protocols import Observer, Recipe
from sprinter.core.records import NO_BUDGET, Generation, Token
from sprinter.core.sampling import Sampling
from sprinter.core.text import Text
from sprinter.detokenise import TextStream
from sprinter.driver import Driver
from sprinter.errors import ConfigError
from sprinter.gates.threshold import ThresholdGate
from sprinter.observers.audit import Audit


@dataclass(frozen=True)
class Cut:
    """A prompt in tokens, and a sampling transform where it is one that a config cannot say."""

    ids: Sequence[int]
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if min(self.ids, default=0) < 0:
            raise ConfigError(f"the prompt has token {min(self.ids)}: ids are 0 or more")


class Stream:
    """A generation as it happens: iterate it for tokens; afterwards `generation` has the whole account."""

    def __init__(
        self,
        driver: Driver,
        pair: Pair,
        config: Config,
        recipe: Recipe,
        prompt: str | Sequence[Any],
        chat: bool,
        observers: Sequence[Observer] = (),
        cut: Cut | None = None,
    ) -> None:
        tokenizer, settings = pair.tokenizer, config.generation
        plain = isinstance(prompt, str) and not chat
        if not prompt and cut is None:
            raise ConfigError("the prompt is empty: write at least a word to go on from")
        if cut is None:
            cut = Cut(tokenizer.encode(str(prompt)) if plain else tokenizer.encode_chat(prompt))
        ids, sampling = cut.ids, cut.sampling or settings.sampling
        self.seed = secrets.randbelow(2**32) if settings.seed is None else settings.seed
        # Kept laws cost memory, and an account is only as good as whole: see `Audit`.
        self.audit = Audit.of(recipe, settings.budget, keeps_drafts=settings.audit == "close")
        self._driver, self._config, self._recipe = driver, config, recipe
        self._prompt = prompt if isinstance(prompt, str) else _question(prompt)
        limits = pair.limits(with_draft=recipe.runs_draft)
        self.text = Text(ids, settings.max_new_tokens, sampling, Chance(self.seed), limits)
        if settings.budget != NO_BUDGET:
            self.text.hold_to(self.audit.may_vouch)
        driver.begin(self.text, recipe, [self.audit, *observers])
        self._pieces = TextStream(tokenizer.fast, ids, settings.stop)
        self._tokens: list[Token] = []
        self._handed = 0  # of `_tokens`, to the reader
        self._began_s: float | None = None
        self._first_s: float | None = None
        self._generation: Generation | None = None

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        while self._handed == len(self._tokens):
            if self._generation is not None:
                raise StopIteration
            self._begin()
            self._driver.wait([self.text])
            self.advance()
        self._handed += 1
        return self._tokens[self._handed - 1]

    def take(self) -> list[Token]:
        """The tokens that have been taken in and were not handed out yet."""
        fresh, self._handed = self._tokens[self._handed :], len(self._tokens)
        return fresh

    def advance(self) -> bool:
        """Take in what has been written since; True once the text is finished. Raises the error that ended it."""
        self._begin()
        text = self.text
        emitted, text.out = text.out, []
        for item in emitted:
            self._tokens += self._pieces.push(item)
            if self._pieces.stopped:
                text.finish("stop")
                break
        if text.finish_reason is not None and self._generation is None:
            self._finish()
        if self._first_s is None and self._tokens and self._began_s is not None:
            self._first_s = perf_counter() - self._began_s
        return self._generation is not None

    @property
    def generation(self) -> Generation:
        """The finished generation; reads what is left of the stream first."""
        while self._generation is None:
            self._driver.wait([self.text])
            self.advance()
        return self._generation

    def close(self) -> None:
        """End the text where it is; what was written so far is its generation."""
        if self._generation is None:
            self._driver.cancel(self.text)
            if self.text.error is None:
                self.advance()

    def _begin(self) -> None:
        if self._began_s is None:
            self._began_s = perf_counter()

    def _finish(self) -> None:
        text, gate = self.text, self._recipe.gate
        self._tokens += self._pieces.rest()
        seconds = perf_counter() - (self._began_s or perf_counter())
        try:
            if text.error is not None:
                raise text.error
            # Closing serves the account, not the text: it is left out of the speed.
            if self._config.generation.audit == "close" and text.finish_reason != "cancelled" and text.unseen:
                self._driver.close_audit(text)
                if text.error is not None:
                    raise text.error
        finally:
            text.forget()
        scored = gate if isinstance(gate, ThresholdGate) else None
        self._generation = Generation(
            prompt=self._prompt,
            text="".join(t.text for t in self._tokens),
            method=self._config.decoding.method,
            threshold=None if scored is None else scored.threshold,
            tokens=tuple(self._tokens),
            finish_reason=text.finish_reason or "length",
            num_prompt_tokens=text.num_prompt,
            seconds=seconds,
            first_token_s=self._first_s,
            counters=text.counters,
            audit=self.audit.report(len(self._tokens)),
            lookahead=None if scored is None else scored.lookahead,
            max_draft=None if scored is None else scored.max_draft,
            seed=self.seed,
        )


def _question(messages: Sequence[Any]) -> str:
    """What a chat's last message says."""
    return str(messages[-1].get("content", ""))
