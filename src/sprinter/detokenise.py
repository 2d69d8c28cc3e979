"""Token ids to text as it streams: whole characters only, stop strings held back until they are decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tokenizers import Tokenizer as FastTokenizer

from sprinter.core.records import Emitted, Token
from sprinter.errors import ConfigError

_CONTEXT = 8  # ids of the prompt that decide on the first word's space
_MOST_CONTEXT = 64
_LONGEST = 8  # ids a character may take; what is unfinished beyond is no character
_HALF = "\ufffd"  # stands for bytes that are no character, or not yet


class _Pieces:
    """Ids to text, one at a time: what an id adds to the text of the ids around it.

        ids      p p p | a b c d e f
                   ^prefix     ^read     text(prefix .. now) less text(prefix .. read) is new

    Everything up to `read` has been given out. The text from `prefix` on begins at a character, since decoders answer
    for a cut one with as many U+FFFD as it has bytes left, or more.
    """

    def __init__(self, tokenizer: FastTokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        size = min(_CONTEXT, len(prompt))
        while size < min(len(prompt), _MOST_CONTEXT) and self._decode(prompt[-size:]).startswith(_HALF):
            size += 1
        self._ids = list(prompt[-size:]) if size else []  # from `prefix` on
        self._read = len(self._ids)
        self._given = self._decode(self._ids)  # the text of ids[:read]

    def add(self, token: int) -> str:
        """The text that is certain now; empty inside a character."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text == self._given and self._is_special(token):
            self._ids.pop()
            return ""
        if not text.endswith(_HALF):
            return self._give(len(self._ids))
        if len(self._ids) - self._read < _LONGEST:
            return ""
        # No character takes so many ids: what waits is none, except perhaps for the last few ids.
        return self._give(next((cut for cut in self._cuts() if self._splits(text, cut)), len(self._ids)))

    def _give(self, cut: int) -> str:
        """The new text of the first `cut` ids; those of them given out now are the context of the next ones."""
        text, fresh = self._decode(self._ids[:cut]), self._ids[self._read : cut]
        # A decoder that sees whole runs of bytes takes its word back when such a run goes on badly: begin anew.
        new = text[len(self._given) :] if text.startswith(self._given) else self._decode(fresh)
        self._ids = self._ids[self._read :]
        self._read = len(fresh)
        self._given = self._decode(fresh)
        return new

    def _cuts(self) -> range:
        """Where what waits may be cut, the last three ids being perhaps the beginning of a character."""
        return range(len(self._ids) - 3, len(self._ids))

    def _splits(self, text: str, cut: int) -> bool:
        return self._decode(self._ids[:cut]) + self._decode(self._ids[cut:]) == text

    def _is_special(self, token: int) -> bool:
        return str(self._tokenizer.decode([token], skip_special_tokens=False)) != self._decode([token])

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


class TextStream:
    """Turns emitted ids into `Token`s whose texts concatenate to the output.

    An id that ends inside a character has empty text; the character comes with the id that completes it.
    """

    def __init__(self, tokenizer: FastTokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        """`prompt`: its last ids decide whether the first word gets its space. `stop`: strings that end the text."""
        if any(not s for s in stop):
            raise ConfigError("a stop string is empty: it would end every text before it begins")
        # A word's leading space depends on there being a word before it.
        self._pieces = _Pieces(tokenizer, prompt)
        self._stop = tuple(stop)
        # A special token has no text to be found in the output; its id ends it.
        self._stop_ids = {tokenizer.token_to_id(s) for s in stop} & _special_ids(tokenizer) if stop else set()
        self._held: list[Token] = []  # tokens whose text may be the beginning of a stop string
        self.stopped = False

    def tokens(self, emitted: Iterable[Emitted]) -> Iterator[Token]:
        """The tokens as they become safe to show; ends early, with `stopped` set, at a stop string."""
        for item in emitted:
            yield from self.push(item)
            if self.stopped:
                return
        yield from self.rest()

    def push(self, item: Emitted) -> Iterator[Token]:
        """What is safe to show with one more token; after a stop string, which sets `stopped`, push no more."""
        if item.id in self._stop_ids:
            self.stopped = True
            yield from self.rest()
            return
        token = Token(item.id, self._pieces.add(item.id), item.origin, item.score, item.source)
        if self._stop:
            self._held.append(token)
            yield from self._release()
        else:
            yield token

    def rest(self) -> Iterator[Token]:
        """What was held back, at the end of the text."""
        while self._held:
            yield self._held.pop(0)

    def _release(self) -> Iterator[Token]:
        text = "".join(t.text for t in self._held)
        cut = min((at for s in self._stop if (at := text.find(s)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            held, self._held = self._held, []
            yield from _up_to(held, cut)
            return
        safe = len(text) - max(_overlap(text, s) for s in self._stop)
        while self._held and len(self._held[0].text) <= safe:
            token = self._held.pop(0)
            safe -= len(token.text)
            yield token


def _special_ids(tokenizer: FastTokenizer) -> set[int]:
    return {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)


def _up_to(tokens: Sequence[Token], cut: int) -> Iterator[Token]:
    """The tokens of the first `cut` characters; the last one's text is shortened to fit."""
    for token in tokens:
        if cut <= 0:
            return
        yield replace(token, text=token.text[:cut])
        cut -= len(token.text)
