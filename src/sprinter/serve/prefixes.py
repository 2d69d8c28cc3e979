"""Prompts that were read already: a text that begins as one of them goes on from a copy of its memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from sprinter.core.rows import Cache
from sprinter.core.text import Text

_LEAST: Final = 32  # tokens: a shorter prompt is read faster than it is looked up
_MOST_TOKENS: Final = 16_384  # of all prompts that are kept


class Prefixes:
    """The target's memories of the last few prompts. A copy changes no text: reading is the same bits in any pieces."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], Cache] = OrderedDict()
        self.tokens_lent = 0

    def lend(self, text: Text) -> None:
        """Give a new text a memory of as much of its prompt as was read before."""
        prompt = text.tokens[: text.num_prompt]
        best, length = None, _LEAST - 1
        for known in self._kept:
            shared = _shared(prompt, known)
            if shared > length:
                best, length = known, shared
        if best is None or text.cache is not None:
            return
        self._kept.move_to_end(best)
        text.cache = self._kept[best].fork()
        text.cache.truncate(min(length, text.num_prompt - 1))
        self.tokens_lent += text.cache.length

    def keep(self, text: Text) -> bool:
        """Keep the memory of a prompt, unless it is known; True once the prompt has been read."""
        cache, count = text.cache, text.num_prompt
        if cache is None or cache.length < count:
            return False
        prompt = tuple(text.tokens[:count])
        if _LEAST <= count <= _MOST_TOKENS and not any(_shared(prompt, known) == count for known in self._kept):
            kept = cache.fork()
            kept.truncate(count)
            self._kept[prompt] = kept
            while sum(map(len, self._kept)) > _MOST_TOKENS:
                self._kept.popitem(last=False)
        return True


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
