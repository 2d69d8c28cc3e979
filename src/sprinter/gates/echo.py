"""Where the end of a text has stood before, and what followed there.

A text that repeats itself is easy to guess for both models, and what the target wrote after the same words before is a
hint the draft's own law does not carry: the longest echo separates accepted from rejected drafts better than it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

LONGEST: Final = 6  # tokens of an ending that are compared; longer ones say no more


class Echo:
    """The followers of every run of 1 to `LONGEST` tokens in one text. A step costs the same at every length.

    >>> echo = Echo()
    >>> echo.look([1, 2, 3, 1, 2], 5, 3)  # "1 2" was followed by 3 before, never by anything else
    (2, 0)
    >>> echo.look([1, 2, 3, 1, 2], 5, 4)
    (0, 2)
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], dict[int, int]] = {}  # run -> follower -> how often

    def look(self, tokens: Sequence[int], length: int, token: int) -> tuple[int, int]:
        """(same, other): length of the longest ending of the first `length` tokens that `token`, or another one,
        followed before. Those must be what was looked at before, lengthened, or rewound and lengthened.
        """
        for follower in tokens[len(self._tokens) : length]:
            for run in _endings(self._tokens):
                followers = self._followers.setdefault(run, {})
                followers[follower] = followers.get(follower, 0) + 1
            self._tokens.append(follower)
        same = other = 0
        for order in range(1, min(LONGEST, length) + 1):
            seen = self._followers.get(tuple(tokens[length - order : length]))
            if seen is None:  # then no longer ending stood before either
                break
            known = token in seen
            if known:
                same = order
            if len(seen) > known:
                other = order
        return same, other

    def rewind(self, length: int) -> None:
        """Forget all tokens behind the first `length`. See `Note.rewind`."""
        while len(self._tokens) > length:
            follower = self._tokens.pop()
            for run in _endings(self._tokens):
                followers = self._followers[run]
                followers[follower] -= 1
                if not followers[follower]:
                    del followers[follower]
                    if not followers:
                        del self._followers[run]


def _endings(tokens: list[int]) -> list[tuple[int, ...]]:
    """The last 1, 2, ... `LONGEST` tokens."""
    return [tuple(tokens[-order:]) for order in range(1, min(LONGEST, len(tokens)) + 1)]
