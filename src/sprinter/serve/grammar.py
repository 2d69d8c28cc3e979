"""Answers of a stated form: a grammar as a mask on the laws of target and draft, by llguidance."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sprinter.core.law import Law
from sprinter.core.rows import FloatArray, IntArray
from sprinter.core.sampling import Sampling
from sprinter.errors import ConfigError
from sprinter.models.tokenizer import Tokenizer
from sprinter.serve.requests import AsGrammar, AsObject, AsSchema, AsText

BoolArray = NDArray[np.bool_]
_MOST_MASKS: Final = 64  # of the latest prefixes, each one bit a token
_MOST_SCHEMA: Final = 1 << 20  # characters
_COMPACT: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Matcher:
    """Which tokens may follow, after any tokens of one text."""

    def __init__(self, grammar: str, tokenizer: Any, start: int) -> None:
        """`start`: tokens of the prompt, which the grammar does not speak of."""
        from llguidance import LLMatcher  # noqa: PLC0415 - an extra

        self._matcher, self._start = LLMatcher(tokenizer, grammar, log_level=0), start
        self._size = tokenizer.vocab_size
        self._read: list[int] = []
        self._masks: OrderedDict[tuple[int, ...], BoolArray | None] = OrderedDict()

    def allowed(self, context: Sequence[int]) -> BoolArray | None:
        """[vocab] after `context`, prompt included; None after what the grammar does not allow."""
        key = tuple(context[self._start :])
        if key not in self._masks:
            self._masks[key] = self._mask(list(key))
            if len(self._masks) > _MOST_MASKS:
                self._masks.popitem(last=False)
        return self._masks[key]

    def _mask(self, tokens: list[int]) -> BoolArray | None:
        matcher = self._matcher
        common = next((n for n, (a, b) in enumerate(zip(self._read, tokens, strict=False)) if a != b), None)
        if common is None:
            common = min(len(self._read), len(tokens))
        if common < len(self._read):
            matcher.rollback(len(self._read) - common)
            del self._read[common:]
        taken = matcher.try_consume_tokens(tokens[common:])
        self._read += tokens[common : common + taken]
        if len(self._read) < len(tokens) or matcher.is_error():
            return None
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self._size].astype(bool)


@dataclass(frozen=True, slots=True)
class Constrained(Sampling):
    """A sampling transform after everything that a grammar does not allow was taken out of the law."""

    matcher: Matcher | None = None

    @property
    def reads_context(self) -> bool:
        """See `Sampling.reads_context`."""
        return True

    def law(
        self, logits: FloatArray, context: Sequence[int], ids: IntArray | None = None, best: int | None = None
    ) -> Law:
        """See `Sampling.law`. Where nothing that a draft knows is allowed its law stays: no such token will stand."""
        assert self.matcher is not None
        mask = self.matcher.allowed(context)
        if mask is None:
            return _PLAIN.law(self, logits, context, ids, best)
        places = np.arange(len(logits)) if ids is None else ids
        known = np.zeros(len(logits), bool)
        within = places < len(mask)
        known[within] = mask[places[within]]
        if not known.any():
            return _PLAIN.law(self, logits, context, ids, best)
        return _PLAIN.law(self, np.where(known, logits, -np.inf).astype(logits.dtype), context, ids)


_PLAIN: Final = Sampling


def grammar_of(form: AsText | AsObject | AsSchema | AsGrammar, tokenizer: Tokenizer) -> str | None:
    """llguidance's grammar for a response format; None for text. Raises ConfigError for one that says nothing sound."""
    if form.type == "text":
        return None
    try:
        from llguidance import LLMatcher  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"this server cannot keep a response_format ({error}): pip install llguidance") from None
    if isinstance(form, AsGrammar):
        make = LLMatcher.grammar_from_lark if form.type == "grammar" else LLMatcher.grammar_from_regex
        grammar = make(form.pattern)
    else:
        schema = json.dumps(form.json_schema.schema_ if isinstance(form, AsSchema) else {"type": "object"})
        if len(schema) > _MOST_SCHEMA:
            raise ConfigError(f"the schema has more than {_MOST_SCHEMA} characters: give a smaller one")
        grammar = LLMatcher.grammar_from_json_schema(schema, defaults=_COMPACT)  # type: ignore[arg-type]
    if wrong := LLMatcher.validate_grammar(grammar, _known(tokenizer)):
        raise ConfigError(f"response_format: {' '.join(str(wrong).split())[:300]}")
    return str(grammar)


def constrained(sampling: Sampling, grammar: str, tokenizer: Tokenizer, start: int) -> Constrained:
    """`sampling` under a grammar, for one text whose prompt has `start` tokens."""
    own = {field.name: getattr(sampling, field.name) for field in fields(Sampling)}
    return Constrained(**own, matcher=Matcher(grammar, _known(tokenizer), start))


def _known(tokenizer: Tokenizer) -> Any:
    if not tokenizer.eos_ids:
        raise ConfigError("a response_format cannot be kept: this model has no token that ends a text")
    return _by_json(tokenizer.fast.to_str(), tokenizer.vocab_size, tuple(sorted(tokenizer.eos_ids)))


@lru_cache(maxsize=2)
def _by_json(text: str, size: int, ends: tuple[int, ...]) -> Any:
    from llguidance import LLTokenizer  # noqa: PLC0415 - an extra

    try:
        return LLTokenizer(text, n_vocab=size, eos_token=list(ends))
    except ValueError as error:
        raise ConfigError(f"a response_format cannot be kept with this model's tokenizer ({error})") from None
