"""Token ids to text as it streams: whole characters only, stop strings held back until they are decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream

from sprinter.core.records import Emitted, Token
from sprinter.errors import ConfigError


class TextStream:
    """Turns emitted ids into `Token`s whose texts concatenate to the output.

    An id that ends inside a character has empty text; the character comes with the id that completes it.
    """

    def __init__(self, tokenizer: FastTokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        """`prompt`: its last ids decide whether the first word gets its space. `stop`: strings that end the text."""
        if any(not s for s in stop):
            raise ConfigError("a stop string is empty: it would end every text before it begins")
        self._tokenizer = tokenizer
        # The decoder needs a few ids of context: a word's leading space depends on there being a word before it.
        self._decoder = DecodeStream(ids=list(prompt[-8:]), skip_special_tokens=True)
        self._stop = tuple(stop)
        self._held: list[Token] = []  # tokens whose text may be the beginning of a stop string
        self.stopped = False

    def tokens(self, emitted: Iterable[Emitted]) -> Iterator[Token]:
        """The tokens as they become safe to show; ends early, with `stopped` set, at a stop string."""
        for item in emitted:
            text = self._decoder.step(self._tokenizer, item.id) or ""
            token = Token(item.id, text, item.origin, item.score)
            if not self._stop:
                yield token
                continue
            self._held.append(token)
            yield from self._release()
            if self.stopped:
                return
        yield from self._held

    def _release(self) -> Iterator[Token]:
        text = "".join(t.text for t in self._held)
        cut = min((at for s in self._stop if (at := text.find(s)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            yield from _up_to(self._held, cut)
            return
        safe = len(text) - max(_overlap(text, s) for s in self._stop)
        while self._held and len(self._held[0].text) <= safe:
            token = self._held.pop(0)
            safe -= len(token.text)
            yield token


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)


def _up_to(tokens: Sequence[Token], cut: int) -> Iterator[Token]:
    """The tokens of the first `cut` characters; the last one's text is shortened to fit."""
    for token in tokens:
        if cut <= 0:
            return
        yield Token(token.id, token.text[:cut], token.origin, token.score)
        cut -= len(token.text)
