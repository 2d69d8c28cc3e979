"""A language model's log-probabilities of word prefixes: one trie and one cache an utterance, no token run twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from sprinter.core.rows import FloatArray, Model, Part
from sprinter.errors import CapabilityError, ConfigError
from sprinter.fields.speech.hypotheses import Words

Encode = Callable[[str], Sequence[int]]


class WordScorer:
    """Scores word prefixes of one utterance after a start context.

    Every trie node is a loose row of one cache, so branches share what they have in common and nothing is copied when
    the beam changes. A node is run only when it gets a child, as its own score is read off its parent's law.
    """

    def __init__(self, model: Model, encode: Encode, start: Sequence[int]) -> None:
        """`encode` gives the ids of a word with its leading space and without special tokens."""
        if model.head_tokens is not None or not model.gives.trees or not model.gives.full_laws:
            raise CapabilityError(f"{model.info.name} cannot score speech: it needs whole laws and rows that branch")
        if not start:
            raise ConfigError("the start context is empty, but the first word's law needs a token to stand behind")
        self._model, self._encode, self._start = model, encode, list(start)
        self._cache = model.open()
        self._laws: dict[tuple[int, ...], tuple[FloatArray, float]] = {}  # logits and logsumexp behind a token path
        self._rows: dict[tuple[int, ...], int] = {(): -1}
        self._pieces: dict[str, tuple[int, ...]] = {}
        self._known: dict[Words, tuple[tuple[int, ...], float]] = {(): ((), 0.0)}
        self.calls = 0
        self.tokens = 0  # run, those of the start context included

    def score_many(self, prefixes: Collection[Words]) -> list[float]:
        """log p of each word prefix after the start context, nats, from at most one pass (two with the start)."""
        asked = {words[:size] for words in prefixes for size in range(1, len(words) + 1)}
        new = sorted(asked - self._known.keys(), key=lambda words: (len(words), words))
        paths: dict[Words, tuple[int, ...]] = {}
        for words in new:
            before = paths[words[:-1]] if words[:-1] in paths else self._known[words[:-1]][0]
            paths[words] = before + self._piece(words[-1])
        if new:
            self._run({path[:size] for path in paths.values() for size in range(len(path))})
        for words in new:
            parent, log_prob = self._known[words[:-1]]
            for place in range(len(parent), len(paths[words])):
                logits, total = self._laws[paths[words][:place]]
                log_prob += float(logits[paths[words][place]]) - total
            self._known[words] = (paths[words], log_prob)
        return [self._known[words][1] for words in prefixes]

    def _piece(self, word: str) -> tuple[int, ...]:
        if word not in self._pieces:
            self._pieces[word] = tuple(self._encode(" " + word))
        return self._pieces[word]

    def _run(self, contexts: set[tuple[int, ...]]) -> None:
        if () not in self._laws:
            self._pass([()], Part(self._cache, self._start, 1))
        missing = sorted(contexts - self._laws.keys(), key=lambda path: (len(path), path))
        if not missing:
            return
        first = len(self._rows) - 1
        self._rows.update((path, first + place) for place, path in enumerate(missing))
        parents = [self._rows[path[:-1]] for path in missing]
        self._pass(missing, Part(self._cache, [path[-1] for path in missing], len(missing), parents))

    def _pass(self, paths: Sequence[tuple[int, ...]], part: Part) -> None:
        (views,) = self._model.forward([part])
        self.calls += 1
        self.tokens += len(part.tokens)
        for row, path in enumerate(paths):
            self._laws[path] = (views.logits[row].copy(), views.facts.log_total(row))
