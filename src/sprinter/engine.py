"""The loop: draft, verify, ask the target, correct; one tick is one step for every text that is ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sprinter.core.protocols import Clock, Drafter, Observer, Recipe
from sprinter.core.reading import Reading
from sprinter.core.rows import Model, Part, Views
from sprinter.core.text import Text
from sprinter.core.tree import Verdict
from sprinter.errors import SprinterError
from sprinter.scheduler import Eager, Scheduler


class Engine:
    """Decodes any number of texts with one target, each by a recipe of its own.

    The tick's order is the order of the method: what is ready is drafted on and verified, what is due is asked about in
    one pass, what the target has answered is corrected. Chance is a function of its place in a text, and a model's
    rows do not depend on their company, so no schedule changes a text.
    """

    def __init__(
        self,
        target: Model,
        scheduler: Scheduler | None = None,
        clocks: Sequence[Clock] = (),
        chunk: int | None = None,
    ) -> None:
        """`chunk`: rows of long prompts that the target reads in one tick, so that nobody waits for all of one."""
        self.target = target
        self.scheduler = Eager() if scheduler is None else scheduler
        self.clocks = tuple(clocks)
        self.chunk = chunk

    def begin(self, text: Text, recipe: Recipe, observers: Sequence[Observer] = ()) -> Text:
        """Put a new text on its way."""
        text.recipe, text.observers = recipe, tuple(observers)
        if any(observer.keeps_drafts for observer in observers):
            text.tree.proposals = []
        text.drafts = recipe.gate.judge(text) and text.has_room
        return text

    def tick(self, texts: Sequence[Text]) -> None:
        """One step for everybody; what has become final stands in each text's `out`."""
        ready = [text for text in texts if text.finish_reason is None]
        able = [text for text in ready if text.drafts]
        chosen = self.scheduler.drafting(able, len(ready))
        if len(chosen) < len(able):
            for text in set(able).difference(chosen):
                text.drafts = False
        self._draft(chosen)
        reading = self._read_on(ready)
        due = [text for text in ready if not text.drafts and text.finish_reason is None and text not in reading]
        if due:
            self._ask(self.scheduler.due(due, len(ready) - len(due)))

    def run(self, texts: Sequence[Text]) -> None:
        """Tick until all texts are finished."""
        running = list(texts)
        while running:
            self.tick(running)
            running = [text for text in running if text.finish_reason is None]

    def close_audit(self, texts: Sequence[Text]) -> None:
        """One more target call over final tokens it has not passed over, so that the observers miss none."""
        left = [text for text in texts if text.unseen]
        for text in left:
            # A stop string ends a text inside a draft: what was drafted beyond the last final token never stood.
            text.cut(text.unseen)
        if left:
            self._ask(left)

    def _read_on(self, texts: Sequence[Text]) -> set[Text]:
        """Let the first text whose prompt is long read a chunk of it; those whose prompts are still too long to ask."""
        if self.chunk is None:
            return set()
        chunk, behind = self.chunk, list[Text]()
        for text in texts:
            if text.cache is None:
                text.cache = self.target.open()
            if text.settled - text.cache.length > chunk:
                behind.append(text)

        def read(group: Sequence[Text]) -> None:
            parts = []
            for text in group:
                assert text.cache is not None
                start = text.cache.length
                parts.append(Part(text.cache, text.tokens[start : start + chunk], 0))
                text.counters.target_tokens += chunk
            self.target.forward(parts)

        self._began("target")
        self._ended("target", _each(read, behind[:1]))
        return {text for text in behind if text.cache is not None and text.settled - text.cache.length > chunk}

    def _draft(self, texts: Sequence[Text]) -> None:
        """Let the drafters add to these texts and the gates judge what is new."""
        for drafter, group in _by_drafter(texts):
            self._began("draft")
            grown = _each(drafter.grow, group)
            self._ended("draft", grown)
            self._began("verify")
            for text in grown:
                if not text.tree.fresh:
                    text.drafts = False
                    continue
                more = text.recipe.gate.judge(text)
                text.release()
                text.drafts = more and text.finish_reason is None and text.has_room
                if text.tree.all_vouched:
                    text.end_if_full()
            self._ended("verify", grown)

    def _ask(self, texts: Sequence[Text]) -> None:
        """One ragged target pass over the pending trees of these texts, then the verdict on each."""
        read: dict[int, tuple[Part, Views]] = {}

        def ask(group: Sequence[Text]) -> None:
            parts = [self._part(text) for text in group]
            read.update(zip(map(id, group), zip(parts, self.target.forward(parts), strict=True), strict=True))

        self._began("target")
        answered = _each(ask, texts)
        self._ended("target", answered)
        for text in answered:
            part, views = read[id(text)]
            text.counters.target_calls += 1
            text.counters.target_tokens += len(part.tokens)
            self._correct(text, Reading(text, views, self.target.head_tokens), len(part.tokens))

    def _part(self, text: Text) -> Part:
        """The rows of a text that the target has not read, and the last of those it has where a view of it is due."""
        if text.cache is None:
            text.cache = self.target.open()
        cache, tree, wanted = text.cache, text.tree, len(text.tree) + 1
        if cache.length >= text.settled:
            # A call that only caught up has read it already, but views are not kept: they are large.
            cache.truncate(text.settled - 1)
        unread = text.tokens[cache.length :]
        if tree.parents is None:
            return Part(cache, unread, wanted)
        stem, first = text.stem, len(unread) - text.stem  # `first`: the row of node 0
        parents = [*range(-1, len(unread) - 1), *(first + parent for parent in tree.parents[stem:])]
        return Part(cache, [*unread, *tree.tokens[stem:]], wanted, parents)

    def _correct(self, text: Text, reading: Reading, num_rows: int) -> None:
        """The rule's verdict, made known to everybody, then settled."""
        recipe, tree = text.recipe, text.tree
        closing = text.finish_reason is not None
        verdict = Verdict(range(len(tree))) if closing else _bounded(text, recipe.rule.judge(text, reading))
        if recipe.drafter is not None:
            recipe.drafter.learn(text, verdict, reading)
        for observer in text.observers:
            observer.saw(text, verdict, reading)
        assert text.cache is not None
        if tree.parents is None:
            text.cache.truncate(text.settled + len(verdict.path))
        else:
            first = num_rows - len(tree)
            text.cache.keep([*range(first), *(first + node for node in verdict.path)])
        text.settle(verdict)
        if not closing:
            text.drafts = text.finish_reason is None and recipe.gate.judge(text) and text.has_room

    def _began(self, stage: str) -> None:
        for clock in self.clocks:
            clock.began(stage)

    def _ended(self, stage: str, texts: Sequence[Text]) -> None:
        for clock in self.clocks:
            clock.ended(stage, texts)


def _by_drafter(texts: Sequence[Text]) -> Iterator[tuple[Drafter, list[Text]]]:
    groups: dict[Drafter, list[Text]] = {}
    for text in texts:
        groups.setdefault(text.recipe.drafter, []).append(text)
    yield from groups.items()


def _each(do: Callable[[Sequence[Text]], None], texts: Sequence[Text]) -> Sequence[Text]:
    """`do` for all texts at once; if that fails, one by one, so that a text that cannot go on fails alone.

    Returns those that went on. A pass that fails has changed nothing.
    """
    try:
        if texts:
            do(texts)
        return texts
    except SprinterError as error:
        if len(texts) == 1:
            texts[0].fail(error)
            return ()
    return [text for text in texts if _each(do, [text])]


def _bounded(text: Text, verdict: Verdict) -> Verdict:
    """`verdict` within the text's limit: where nothing may follow, the target's own token must not be audited."""
    tree, path = text.tree, verdict.path[: text.limit - text.settled]
    full = text.settled + len(path) >= text.limit
    ended = bool(path) and tree.tokens[path[-1]] in text.limits.eos_ids
    return Verdict(path) if full or ended else verdict
