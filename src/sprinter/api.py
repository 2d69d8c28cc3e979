"""Sprinter in Python: load a pair once, write many texts."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from sprinter.build import Pair, build_engine
from sprinter.certify.choose import Choice, Wish, grant
from sprinter.config import Config, make_config
from sprinter.core.records import Generation, Token
from sprinter.core.sampling import Dice, Sampling
from sprinter.detokenise import TextStream
from sprinter.engine import Engine
from sprinter.errors import CertificateWarning
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.base import ModelInfo
from sprinter.observers.audit import Audit
from sprinter.rules.exact import ExactRule
from sprinter.rules.greedy import GreedyRule


class Stream:
    """A generation as it happens: iterate it for tokens; afterwards `generation` has the whole account."""

    def __init__(self, engine: Engine, pair: Pair, config: Config, prompt: str, chat: bool) -> None:
        tokenizer = pair.tokenizer
        ids = tokenizer.encode_chat(prompt) if chat else tokenizer.encode(prompt)
        settings = config.generation
        self._prompt, self._num_prompt_tokens, self._config = prompt, len(ids), config
        self._audit = Audit(exact=isinstance(engine.rule, ExactRule | GreedyRule))
        dice = Dice(np.random.default_rng(settings.seed))
        self._run = engine.start(ids, settings.max_new_tokens, dice, self._audit)
        self._text = TextStream(tokenizer.fast, ids, settings.stop)
        gate = engine.gate
        self._gate = gate if isinstance(gate, ThresholdGate) else None
        self._tokens: list[Token] = []
        self._generation: Generation | None = None
        # One iterator for the stream's whole life: a second loop goes on where the first stopped, inside a round too.
        self._iterator = self._written()

    def __iter__(self) -> Iterator[Token]:
        return self._iterator

    def _written(self) -> Iterator[Token]:
        started = perf_counter()
        first: float | None = None
        for token in self._text.tokens(self._run):
            if first is None:
                first = perf_counter() - started
            self._tokens.append(token)
            yield token
        seconds = perf_counter() - started
        # Closing serves the account, not the text: it is left out of the speed.
        if self._config.generation.audit == "close":
            self._run.close_audit()
        self._generation = Generation(
            prompt=self._prompt,
            text="".join(t.text for t in self._tokens),
            method=self._config.decoding.method,
            threshold=None if self._gate is None else self._gate.threshold,
            tokens=tuple(self._tokens),
            finish_reason="stop" if self._text.stopped else self._run.finish_reason or "length",
            num_prompt_tokens=self._num_prompt_tokens,
            seconds=seconds,
            first_token_s=first,
            counters=self._run.counters,
            audit=self._audit.report(len(self._tokens)),
            lookahead=None if self._gate is None else self._gate.lookahead,
            max_draft=None if self._gate is None else self._gate.max_draft,
        )

    @property
    def audit(self) -> Audit:
        """The account so far, token by token: what a Guard is fed with."""
        return self._audit

    @property
    def generation(self) -> Generation:
        """The finished generation; reads what is left of the stream first."""
        if self._generation is None:
            for _ in self:
                pass
        assert self._generation is not None
        return self._generation


class Sprinter:
    """A pair of models with its verifier, ready to write.

    >>> writer = Sprinter.from_pretrained()                                    # doctest: +SKIP
    >>> writer.generate("The three laws of robotics are", max_new_tokens=40).text  # doctest: +SKIP
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._engines: dict[tuple[Any, Sampling], Engine] = {}

    @classmethod
    def from_pretrained(
        cls,
        target: str | Path = "default",
        draft: str | Path = "default",
        verifier: str | Path = "default",
        **models: Any,
    ) -> Sprinter:
        """Choose a pair; `models` are further fields of ModelConfig (backend, weights, device).

        Models load at their first use. Raises ConfigError for an unknown setting.
        """
        names = {"target": str(target), "draft": str(draft), "verifier": str(verifier)}
        return cls(Pair(make_config(None, {**names, **models}).models))

    def generate(self, prompt: str, *, chat: bool = False, **settings: Any) -> Generation:
        """Write one text. `settings` are fields of DecodingConfig, GenerationConfig and Wish.

        With `max_tv` or `max_atypical` it is written by a certificate (`confidence` and `certificate` say which), and
        a CertificateWarning says what that leaves unproven. Raises ConfigError, BackendError, DataError,
        CapabilityError or CertificateError, each saying what to do.
        """
        return self.start(prompt, self._settings(settings), chat).generation

    def stream(self, prompt: str, *, chat: bool = False, **settings: Any) -> Stream:
        """As `generate`, token by token: iterate the result. One stream of a Sprinter at a time."""
        return self.start(prompt, self._settings(settings), chat)

    def certified(self, config: Config, wish: Wish, given: Collection[str] = ()) -> tuple[Config, Choice]:
        """`config` with what the certificate that grants `wish` prescribes; `given`: see `certify.choose.grant`."""
        generation = config.generation
        choice = grant(wish, self.pair, config.decoding, generation.sampling, generation.max_new_tokens, given)
        return dataclasses.replace(config, decoding=choice.apply(config.decoding)), choice

    def _settings(self, settings: dict[str, Any]) -> Config:
        """A Config from keyword arguments, by certificate where they hold a wish."""
        names = {field.name for field in dataclasses.fields(Wish)}
        wish = Wish(**{name: value for name, value in settings.items() if name in names})
        own = {name: value for name, value in settings.items() if name not in names}
        config = make_config(None, own)
        if not wish.levels:
            return config
        config, choice = self.certified(config, wish, own)
        if choice.caveat is not None:
            warnings.warn(choice.caveat, CertificateWarning, stacklevel=3)
        return config

    def start(self, prompt: str, config: Config, chat: bool = False) -> Stream:
        """As `stream`, from a whole Config; its models are those of this Sprinter."""
        return Stream(self.engine(config), self.pair, config, prompt, chat)

    def running(self, config: Config) -> list[ModelInfo]:
        """The models a config's method runs, target first."""
        alone = config.decoding.method == "target"
        return [self.pair.target.info] if alone else [self.pair.target.info, self.pair.draft.info]

    def engine(self, config: Config) -> Engine:
        """The engine for a config's method and sampling, built once."""
        key = (config.decoding, config.generation.sampling)
        if key not in self._engines:
            self._engines[key] = build_engine(self.pair, *key)
        return self._engines[key]
