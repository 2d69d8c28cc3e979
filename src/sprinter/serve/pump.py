"""One thread that writes every request's text: each turn of the engine serves all who run."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from sprinter.api import Sprinter
from sprinter.core.records import Generation, Token
from sprinter.errors import SprinterError
from sprinter.serve.prefixes import Prefixes
from sprinter.streams import Stream

Event = list[Token] | Generation | SprinterError
_IDLE_S: Final = 0.5
_FAILED: Final = "the server failed on this text; its log says how"
_log: Final = logging.getLogger("sprinter.serve")


class OverdueError(SprinterError):
    """A request ran past its deadline."""


class FailedError(SprinterError):
    """Something here is broken."""


@dataclass(eq=False)
class Order:
    """One text that was asked for: how to start it, and who hears of it."""

    start: Callable[[], Stream]
    deliver: Callable[[Event], None]  # called in the pump's thread: must not wait
    deadline: float  # by `monotonic`
    after: Order | None = None  # the text whose prompt this one shares, to be read first
    stream: Stream | None = None
    cancelled: bool = False
    done: bool = False
    has_read: bool = False  # its prompt

    def waits(self) -> bool:
        """Whether the prompt it shares is still being read."""
        first = self.after
        return first is not None and not (first.done or first.cancelled or first.has_read)


@dataclass
class Pump:
    """Runs at most `most` texts in company; others wait in the order they came."""

    sprinter: Sprinter
    most: int = 32
    queue: int = 128  # texts that may wait
    _waiting: deque[Order] = field(default_factory=deque)
    _running: list[Order] = field(default_factory=list)
    _stopped: bool = False
    _beat: float = field(default_factory=monotonic)
    _wake: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._prefixes = Prefixes()
        self._thread = threading.Thread(target=self._run, name="sprinter-pump", daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, orders: list[Order]) -> bool:
        """Take these texts, all or none: False where the queue is full."""
        with self._wake:
            if self._stopped or len(self._waiting) + len(orders) > self.queue:
                return False
            self._waiting += orders
            self._wake.notify()
            return True

    def cancel(self, order: Order) -> None:
        """Nobody waits for this text any more; it ends with the present turn."""
        order.cancelled = True
        with self._wake:
            self._wake.notify()

    def stop(self, wait_s: float = 0.0) -> None:
        """Take no more; give running texts `wait_s` seconds, then end them."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join(wait_s)
        for order in [*self._running, *self._waiting]:
            order.cancelled = True
        self._thread.join(10)

    @property
    def load(self) -> tuple[int, int]:
        """Texts (running, waiting)."""
        return len(self._running), len(self._waiting)

    @property
    def silence_s(self) -> float:
        """Seconds since the last sign of life."""
        return monotonic() - self._beat

    def _run(self) -> None:
        while True:
            self._beat = monotonic()
            with self._wake:
                if self._stopped and not (self._running or self._waiting):
                    return
                if not (self._running or self._waiting):
                    self._wake.wait(_IDLE_S)
                    continue
            self._admit()
            texts = [order.stream.text for order in self._running if order.stream is not None]
            try:
                if texts:
                    self.sprinter.driver.turn(texts)
            except Exception:  # a bug: whoever it hits is told, and the others' server goes on
                _log.exception("a turn of the engine failed; the texts that ran are lost")
                for order in self._running:
                    self._end(order, FailedError(_FAILED))
            for order in self._running:
                if not order.done:
                    self._guarded(order, self._serve)
            self._running = [order for order in self._running if not order.done]

    def _admit(self) -> None:
        """Start what there is room for."""
        with self._wake:
            waiting, self._waiting = self._waiting, deque()
        kept: deque[Order] = deque()
        for order in waiting:
            if order.cancelled or monotonic() > order.deadline:
                self._end(order, None if order.cancelled else OverdueError("the request waited past its deadline"))
            elif len(self._running) >= self.most or order.waits():
                kept.append(order)
            else:
                self._guarded(order, self._start)
        with self._wake:
            self._waiting.extendleft(reversed(kept))

    def _guarded(self, order: Order, do: Callable[[Order], None]) -> None:
        """A bug in one text ends that text."""
        try:
            do(order)
        except Exception:
            _log.exception("a text failed")
            self._end(order, FailedError(_FAILED))

    def _start(self, order: Order) -> None:
        try:
            order.stream = order.start()
        except SprinterError as error:
            self._end(order, error)
            return
        self._prefixes.lend(order.stream.text)
        self._running.append(order)

    def _serve(self, order: Order) -> None:
        """Hand on what has been written."""
        stream = order.stream
        assert stream is not None
        if order.cancelled or monotonic() > order.deadline:
            stream.close()
            self._end(order, None if order.cancelled else OverdueError("the request ran past its deadline"))
            return
        order.has_read = order.has_read or self._prefixes.keep(stream.text)
        try:
            done = stream.advance()
        except SprinterError as error:
            self._end(order, error)
            return
        if fresh := stream.take():
            order.deliver(fresh)
        if done:
            self._end(order, stream.generation)

    def _end(self, order: Order, last: Event | None) -> None:
        order.done = True
        if last is not None:
            order.deliver(last)
