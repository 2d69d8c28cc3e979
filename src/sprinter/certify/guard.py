"""The guard: watches what a stream of requests really loses, and steps back when the promise no longer holds."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sprinter.bounds import RunningBound
from sprinter.certify.risks import risk_named
from sprinter.errors import ConfigError, DataError

Action = Literal["warn", "tighten", "exact"]
Standing = Literal["warming", "within", "unproven", "exceeded"]

_TABLES = """
CREATE TABLE IF NOT EXISTS state (watch TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trips (watch TEXT NOT NULL, content TEXT NOT NULL);
"""
_BUSY_S = 10.0


@dataclass(frozen=True, slots=True)
class Watch:
    """What is promised, what may be done about it, and how soon.

    `thresholds` are the certified ones, safest first; the last is in use to begin with. A window is a stretch of
    audited tokens bounded on its own, so that a long good past does not hide a bad present. After `grace` tokens of a
    window the promise must be proven anew; before, only a proven breach counts.
    """

    loss: str
    epsilon: float
    thresholds: tuple[float, ...]
    action: Action = "tighten"
    alpha: float = 0.05
    grace: int = 10_000  # audited tokens
    window: int = 50_000  # audited tokens
    setting: str = ""  # what else tells this stream from another: a fingerprint of the pair and the method

    def __post_init__(self) -> None:
        risk_named(self.loss)
        if self.loss not in ("tv", "atypical"):
            raise ConfigError(f"the guard cannot watch {self.loss!r}: only tv and atypical are known token by token")
        for name, value in (("epsilon", self.epsilon), ("alpha", self.alpha)):
            if not 0.0 < value < 1.0:
                raise ConfigError(f"{name} is {value}, but must lie strictly between 0 and 1")
        if self.action not in ("warn", "tighten", "exact"):
            raise ConfigError(f"unknown action {self.action!r}: choose warn, tighten or exact")
        if not self.thresholds or list(self.thresholds) != sorted(self.thresholds, reverse=True):
            raise ConfigError(
                "the guard needs the certified thresholds, safest first: there is none or one is misplaced"
            )
        if not 1 <= self.grace <= self.window:
            raise ConfigError(f"grace is {self.grace} tokens, but must be from 1 to the window's {self.window}")

    @property
    def key(self) -> str:
        """One word for this watch; another promise or pair is another watch."""
        told = [self.setting, self.loss, self.epsilon, self.alpha, self.grace, self.window, *self.thresholds]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Trip:
    """One time the guard acted."""

    standing: Standing
    tokens_in_window: int
    tokens_total: int
    mean: float
    lower: float
    upper: float
    threshold_before: float
    threshold_after: float  # inf: exact decoding
    message: str


@dataclass(frozen=True, slots=True)
class GuardReport:
    """Where the stream stands after a request."""

    standing: Standing
    threshold: float  # to be used for the next request; inf: exact decoding
    tokens_in_window: int
    tokens_total: int
    mean: float
    upper: float
    trip: Trip | None  # what this request set off


@dataclass(frozen=True, slots=True)
class _State:
    """What must survive a restart."""

    bound: RunningBound
    step: int  # index of the threshold in use; -1 for exact
    windows: int = 1  # windows begun, the present one included
    tokens_total: int = 0
    told: bool = False  # whether the present window has tripped already

    def to_json(self) -> str:
        content = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({**content, "bound": self.bound.state()})

    @classmethod
    def from_json(cls, text: str, num_thresholds: int) -> _State:
        try:
            content: Mapping[str, Any] = json.loads(text)
            bound = RunningBound.from_state(content["bound"])
            numbers = {name: int(content[name]) for name in ("step", "windows", "tokens_total")}
            state = cls(bound=bound, told=bool(content["told"]), **numbers)
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise DataError(f"the guard's saved state is damaged ({error}): delete it to start anew") from None
        if not (-1 <= state.step < num_thresholds and state.windows >= 1 and state.tokens_total >= 0):
            raise DataError("the guard's saved state is damaged (impossible numbers): delete it to start anew")
        return state


class Guard:
    """A running, anytime-valid bound on a stream's mean loss per token, with consequences.

    Window k spends alpha / (k (k + 1)) on each side, which sums to alpha over all windows: with probability at least
    1 - alpha the guard NEVER calls a window `exceeded` whose true mean (the running average of conditional means) is
    within epsilon, and likewise never calls one `within` whose true mean is above. `unproven` is neither: the grace
    is over and the promise could not be shown to hold.

    The state lives in SQLite, updated in one transaction a request, so several processes, each with a Guard of its
    own, may share a file.
    """

    def __init__(self, path: Path, watch: Watch) -> None:
        self.watch = watch
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            # A write-ahead log needs no disk flush per request. Should the power fail, the last requests are forgotten.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from None
        with self._transaction() as (_, state):
            self.threshold = self._threshold(state)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._connection.close()

    def record(self, losses: Sequence[float]) -> GuardReport:
        """Take in the audited losses of one request, token by token; act if the promise no longer holds."""
        with self._transaction() as (connection, before):
            before.bound.update(losses)
            seen = replace(before, tokens_total=before.tokens_total + len(losses))
            standing, lower, upper = self._judge(seen)
            trip, after = None, seen
            if standing in ("unproven", "exceeded") and not seen.told and seen.step >= 0:
                trip, after = self._act(seen, standing, lower, upper)
                connection.execute("INSERT INTO trips VALUES (?, ?)", (self.watch.key, json.dumps(_plain(trip))))
            # Another threshold is another stream; and a full window has had its say.
            if after.step != seen.step or seen.bound.count >= self.watch.window:
                after = self._next_window(after)
            self._write(connection, after)
        self.threshold = self._threshold(after)
        return GuardReport(
            standing=standing,
            threshold=self.threshold,
            tokens_in_window=seen.bound.count,
            tokens_total=seen.tokens_total,
            mean=seen.bound.mean,
            upper=upper,
            trip=trip,
        )

    def _next_window(self, state: _State) -> _State:
        return replace(state, bound=RunningBound(self.watch.alpha), windows=state.windows + 1, told=False)

    def trips(self) -> list[Trip]:
        """Every time the guard acted, oldest first."""
        with self._transaction() as (connection, _):
            rows = connection.execute("SELECT content FROM trips WHERE watch = ?", (self.watch.key,)).fetchall()
        return [_trip(json.loads(row[0])) for row in rows]

    def reset(self) -> None:
        """Go back to the fastest certified threshold and a fresh window; past windows stay paid for."""
        with self._transaction() as (connection, state):
            fresh = replace(self._next_window(state), step=len(self.watch.thresholds) - 1)
            self._write(connection, fresh)
            self.threshold = self._threshold(fresh)

    def _judge(self, state: _State) -> tuple[Standing, float, float]:
        share = self.watch.alpha / (state.windows * (state.windows + 1))
        lower, upper = state.bound.lower_at(share), state.bound.upper_at(share)
        if lower > self.watch.epsilon:
            return "exceeded", lower, upper
        if upper <= self.watch.epsilon:
            return "within", lower, upper
        return ("unproven" if state.bound.count >= self.watch.grace else "warming"), lower, upper

    def _act(self, state: _State, standing: Standing, lower: float, upper: float) -> tuple[Trip, _State]:
        steps = {"warn": state.step, "tighten": state.step - 1, "exact": -1}
        after = replace(state, step=steps[self.watch.action], told=True)
        trip = Trip(
            standing=standing,
            tokens_in_window=state.bound.count,
            tokens_total=state.tokens_total,
            mean=state.bound.mean,
            lower=lower,
            upper=upper,
            threshold_before=self._threshold(state),
            threshold_after=self._threshold(after),
            message=self._message(state, after, standing, lower, upper),
        )
        return trip, after

    def _message(self, state: _State, after: _State, standing: Standing, lower: float, upper: float) -> str:
        watch = self.watch
        found = f"is above {lower:.4f}" if standing == "exceeded" else f"is only known to be below {upper:.4f}"
        now = self._threshold(after)
        done = {
            "warn": f"the threshold stays at {now:g}",
            "tighten": f"the threshold is now {now:g}" if after.step >= 0 else "decoding is now exact",
            "exact": "decoding is now exact",
        }[watch.action]
        return (
            f"{watch.loss} {found} over the last {state.bound.count} audited tokens, at most {watch.epsilon:g} was "
            f"promised: the requests are unlike the calibration prompts; {done}"
        )

    def _threshold(self, state: _State) -> float:
        return math.inf if state.step < 0 else self.watch.thresholds[state.step]

    def _write(self, connection: sqlite3.Connection, state: _State) -> None:
        connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (self.watch.key, state.to_json()))

    @contextmanager
    def _transaction(self) -> Iterator[tuple[sqlite3.Connection, _State]]:
        """The database and the state in it, locked until the block ends; nothing is written if it raises."""
        connection = self._connection
        with self._lock:
            try:
                connection.execute("BEGIN IMMEDIATE")
                row = connection.execute("SELECT content FROM state WHERE watch = ?", (self.watch.key,)).fetchone()
                fresh = _State(RunningBound(self.watch.alpha), len(self.watch.thresholds) - 1)
                yield connection, fresh if row is None else _State.from_json(row[0], len(self.watch.thresholds))
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._unusable(error) from None
            finally:
                with suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")

    def _unusable(self, error: Exception) -> DataError:
        return DataError(f"the guard cannot use {self._path} ({error}): name another file, or delete it to start anew")


def _plain(trip: Trip) -> dict[str, object]:
    """A trip as strict JSON types: exact decoding, an infinite threshold, becomes null."""
    values = {name: getattr(trip, name) for name in Trip.__slots__}
    return {name: None if value == math.inf else value for name, value in values.items()}


def _trip(content: dict[str, Any]) -> Trip:
    values: dict[str, Any] = {name: math.inf if value is None else value for name, value in content.items()}
    return Trip(**values)
