"""One text on its way: everything that is its own, and nothing that is another's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sprinter.core.chance import Chance
from sprinter.core.records import Counters, Emitted, FinishReason, Origin
from sprinter.core.rows import Cache
from sprinter.core.sampling import Sampling
from sprinter.core.tree import Proposal, Tree, Verdict
from sprinter.errors import ConfigError, SprinterError


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a text: ids that may be written, tokens that can be read, ids that end it."""

    vocab_size: int
    context_length: int
    eos_ids: frozenset[int] = frozenset()
    draft_window: int | None = None  # tokens the draft can read, where it reads fewer

    def check(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Raise ConfigError for an impossible request."""
        if not prompt:
            raise ConfigError("the prompt has no tokens: decoding needs at least one to start from")
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}, but must be at least 1")
        if max(prompt) >= self.vocab_size:
            raise ConfigError(
                f"the prompt has token {max(prompt)}, but the model knows only ids below {self.vocab_size}: "
                "the model and its tokenizer do not belong together"
            )
        if len(prompt) >= self.context_length:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens, but the models read at most {self.context_length} and need room "
                "for one more: shorten the prompt"
            )


class Note(Protocol):
    """What a part remembers of a text."""

    def rewind(self, length: int) -> None:
        """The text's tokens from place `length` on have fallen."""


N = TypeVar("N", bound=Note)


class Text:
    """A text's tokens, pending tree, chance, caches, counts and the notes of the parts that work on it.

    tokens    p p p p t t t d d d        prompt, what stands, and what is pending before it branches
                          |     |
                      settled   len(tokens), never above `limit`
    """

    __slots__ = (
        "cache", "chance", "counters", "drafts", "error", "finish_reason", "limit", "limits", "may_vouch", "notes",
        "num_prompt", "observers", "out", "plain_rounds", "reach", "recipe", "round", "sampling", "settled", "shown",
        "tokens", "tree",
    )  # fmt: skip

    def __init__(
        self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, chance: Chance, limits: Limits
    ) -> None:
        """Raises ConfigError for a prompt that is empty, too long, or of unknown ids."""
        limits.check(prompt, max_new_tokens)
        self.tokens = list(prompt)
        self.num_prompt = self.settled = self.shown = len(self.tokens)
        self.limits = limits
        self.limit = min(self.settled + max_new_tokens, limits.context_length)
        self.reach = self.limit if limits.draft_window is None else min(self.limit, limits.draft_window)
        self.sampling = sampling
        self.chance = chance
        self.may_vouch: Callable[[], float] | None = None  # see `hold_to`
        self.round = 0  # target calls settled
        self.plain_rounds = 0  # of them, those with nothing drafted
        self.tree = Tree()
        self.cache: Cache | None = None  # of the target
        self.notes: dict[Any, Any] = {}
        self.recipe: Any = None  # see `protocols.Recipe`
        self.observers: tuple[Any, ...] = ()
        self.counters = Counters()
        self.out: list[Emitted] = []  # final, and not fetched yet
        self.finish_reason: FinishReason | None = None
        self.drafts = False  # whether the gate wants more and there is room
        self.error: SprinterError | None = None  # why nothing more can be written

    def hold_to(self, may_vouch: Callable[[], float]) -> None:
        """Let `may_vouch()` say, at the beginning and after each target call, how many pending tokens may be vouched.

        What gates vouch for beyond that is tested. To be called before the text is begun.
        """
        self.may_vouch = may_vouch
        self.tree.clear(may_vouch())

    @property
    def num_tokens(self) -> int:
        """Tokens emitted so far."""
        return self.shown - self.num_prompt

    @property
    def unseen(self) -> int:
        """Emitted tokens that no target call has passed over."""
        return self.shown - self.settled

    @property
    def stem(self) -> int:
        """Pending nodes that stand in line behind what is settled; all others branch off."""
        return len(self.tokens) - self.settled

    @property
    def has_room(self) -> bool:
        """Whether another token may be drafted."""
        tokens = self.tokens
        return len(tokens) < self.reach and not self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether the newest drafted token ends the text."""
        return len(self.tokens) > self.settled and self.tokens[-1] in self.limits.eos_ids

    def note(self, key: Any, make: Callable[[], N]) -> N:
        """What the part `key` remembers of this text; made when first asked for."""
        found: N | None = self.notes.get(key)
        if found is None:
            found = self.notes[key] = make()
        return found

    def context(self, node: int) -> list[int]:
        """All tokens up to and including `node`; -1: what is settled."""
        if self.tree.parents is None:
            return self.tokens[: self.settled + node + 1]
        return self.tokens[: self.settled] + [self.tree.tokens[n] for n in self.tree.path(node)]

    def add(self, proposal: Proposal) -> None:
        """Draft a token behind the pending chain."""
        self.tree.add(proposal)
        self.tokens.append(proposal.token)

    def cut(self, count: int) -> None:
        """Drop all drafted nodes but the first `count`."""
        if count < len(self.tree):
            self.tree.cut(count)
            self._rewind(self.settled + min(count, self.stem))

    def ungrow(self) -> list[tuple[int, Proposal]]:
        """Take off the nodes that have not been judged, behind a chain of those that have: see `Tree.ungrow`."""
        judged = len(self.tree.scores)
        taken = self.tree.ungrow(judged)
        self._rewind(self.settled + judged)
        return taken

    def release(self) -> None:
        """Emit the vouched tokens in front of the first doubt: nothing can take them back."""
        tree, place = self.tree, self.shown - self.settled
        while place < len(tree.scores) and tree.vouched[place] and self.finish_reason is None:
            self._emit(tree.tokens[place], "vouched", tree.scores[place], tree.sources.get(place))
            place += 1

    def settle(self, verdict: Verdict) -> None:
        """Let stand what the target's call let stand, drop the rest, begin a new round."""
        tree, path = self.tree, verdict.path
        drafted = len(tree) > 0
        kept = [tree.tokens[node] for node in path]
        for place in range(self.shown - self.settled, len(path)):
            if self.finish_reason is not None:
                break
            node = path[place]
            origin: Origin = "vouched" if tree.vouched[node] else "tested"
            self._emit(kept[place], origin, tree.scores[node], tree.sources.get(node))
        stands, in_line = self.settled + len(path), len(path)
        if tree.parents is not None:
            in_line = next((place for place, node in enumerate(path) if node != place or place >= self.stem), in_line)
        self._rewind(self.settled + in_line)
        self.tokens += kept[in_line:]
        self.settled, self.round = stands, self.round + 1
        self.plain_rounds += not drafted
        if verdict.token is not None and verdict.origin is not None and self.finish_reason is None:
            self.tokens.append(verdict.token)
            self.settled += 1
            self._emit(verdict.token, verdict.origin if drafted else "target", None)
        tree.clear(math.inf if self.may_vouch is None else self.may_vouch())
        self.end_if_full()

    def end_if_full(self) -> None:
        """Finish where every token there is room for has been emitted."""
        if self.finish_reason is None and self.shown >= self.limit:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """Nothing more will be emitted."""
        self.finish_reason = reason
        self.drafts = False

    def fail(self, error: SprinterError) -> None:
        """Nothing more can be written."""
        self.error = error
        self.finish("error")

    def forget(self) -> None:
        """Let go of caches and notes: only what was written is kept."""
        self.cache = None
        self.notes.clear()
        self.tree.clear()

    def _emit(self, token: int, origin: Origin, score: float | None, source: str | None = None) -> None:
        self.out.append(Emitted(token, origin, score, source))
        self.shown += 1
        if token in self.limits.eos_ids:
            self.finish("eos")

    def _rewind(self, length: int) -> None:
        del self.tokens[length:]
        for note in self.notes.values():
            note.rewind(length)
