"""Many readers, one engine: whoever waits for a token ticks for all who wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from weakref import WeakSet

from sprinter.core.protocols import Observer, Recipe
from sprinter.core.text import Text
from sprinter.engine import Engine

_DRIVERS: WeakSet[Driver] = WeakSet()


class Driver:
    """Lets any number of threads read texts of one engine.

    There is no thread of its own. A thread that waits for a text lends itself to the engine, tick by tick, and each
    tick serves the texts of all threads that wait: company comes about by itself, and an idle reader costs nothing.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wanted: dict[Text, None] = {}  # texts somebody waits for, in the order of their arrival
        self._renew()
        _DRIVERS.add(self)

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._ticking: frozenset[Text] = frozenset()  # the texts of the tick that is under way

    def begin(self, text: Text, recipe: Recipe, observers: Sequence[Observer]) -> None:
        """See `Engine.begin`."""
        self._engine.begin(text, recipe, observers)

    def wait(self, texts: Sequence[Text]) -> None:
        """Return when at least one of these texts has something to fetch or is finished."""
        with self._changed:
            self._wanted.update(dict.fromkeys(texts))
            try:
                while not self._ready(texts):
                    if self._ticking:
                        self._changed.wait()
                    else:
                        self._tick()
            finally:
                for text in texts:
                    self._wanted.pop(text, None)

    def turn(self, texts: Sequence[Text]) -> None:
        """One tick for these texts and for whatever else is waited for; none where something can be fetched."""
        with self._changed:
            self._wanted.update(dict.fromkeys(texts))
            try:
                self._alone()
                if not self._ready(texts):
                    self._tick()
            finally:
                for text in texts:
                    self._wanted.pop(text, None)

    def close_audit(self, text: Text) -> None:
        """See `Engine.close_audit`."""
        with self._changed:
            self._alone()
            self._engine.close_audit([text])

    def cancel(self, text: Text) -> None:
        """End a text wherever it is, and let go of its memory."""
        with self._changed:
            self._alone()
            if text.finish_reason is None:
                text.finish("cancelled")
            text.forget()
            self._changed.notify_all()

    def _ready(self, texts: Sequence[Text]) -> bool:
        """Whether something can be fetched and no tick is at work on these texts."""
        if not self._ticking.isdisjoint(texts):
            return False
        return any(text.out or text.finish_reason is not None for text in texts)

    def _tick(self) -> None:
        """One tick for all wanted texts, with the lock released: others may join in or leave meanwhile."""
        group = [text for text in self._wanted if not text.out and text.finish_reason is None]
        self._ticking = frozenset(group)
        self._changed.release()
        try:
            self._engine.tick(group)
        finally:
            self._changed.acquire()
            self._ticking = frozenset()
            self._changed.notify_all()

    def _alone(self) -> None:
        while self._ticking:
            self._changed.wait()


def _after_fork() -> None:
    # A tick that another thread had begun will never end in the child.
    for driver in list(_DRIVERS):
        driver._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
