"""The guard: watches what a stream of requests really loses, and steps back when the promise no longer holds."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sprinter.bounds import RunningBound
from sprinter.certify.detector import BETS, Detector
from sprinter.certify.watch import GuardReport, Standing, Trip, Watch
from sprinter.errors import ConfigError, DataError

_VERSION: Final = 2  # of the file; 1 had windows of tokens and no detector
_TABLES = """
CREATE TABLE IF NOT EXISTS state (watch TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trips (watch TEXT NOT NULL, content TEXT NOT NULL);
"""
_BUSY_S = 10.0


@dataclass(frozen=True, slots=True)
class _State:
    """What must survive a restart."""

    bound: RunningBound
    detector: tuple[float, ...]
    step: int  # index of the threshold in use; -1 for exact
    requests: int = 0  # at this threshold
    tokens_total: int = 0

    def to_json(self) -> str:
        content = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({**content, "bound": self.bound.state()})

    @classmethod
    def from_json(cls, text: str, num_thresholds: int) -> _State:
        try:
            content: Mapping[str, Any] = json.loads(text)
            bound = RunningBound.from_state(content["bound"])
            numbers = {name: int(content[name]) for name in ("step", "requests", "tokens_total")}
            state = cls(bound=bound, detector=tuple(float(m) for m in content["detector"]), **numbers)
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise DataError(f"the guard's saved state is damaged ({error}): delete it to start anew") from None
        whole = len(state.detector) == len(BETS) and all(0 <= m < math.inf for m in state.detector)
        if not (whole and -1 <= state.step < num_thresholds and state.requests >= 0 and state.tokens_total >= 0):
            raise DataError("the guard's saved state is damaged (impossible numbers): delete it to start anew")
        return state


class Guard:
    """An e-detector over requests (see `Detector`), with consequences.

    A request counts with what it lost beyond the promise, its sum of losses less `epsilon` a token. As long as that is
    nothing on average, given all that came before, the mean number of requests to an alarm is at least `mean_time`. An
    alarm makes the guard act; that the promise is not proven yet is a report and no alarm.

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
            self._adopt()
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from None
        with self._transaction() as (_, state):
            self.threshold = self._threshold(state)

    def _adopt(self) -> None:
        """Make the tables, or see that they are of this version."""
        connection = self._connection
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'state'").fetchone()
        if version > _VERSION or (tables and version < _VERSION):
            connection.close()
            raise DataError(
                f"{self._path} holds the state of a guard of version {version or 1}, this is version {_VERSION}, which "
                "counts by requests: name another file, or delete it to start anew"
            )
        connection.execute("BEGIN IMMEDIATE")
        for table in _TABLES.split(";"):
            connection.execute(table)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._connection.close()

    def look(self) -> GuardReport:
        """Where the stream stands now, with what other processes have recorded."""
        with self._transaction() as (_, state):
            self.threshold = self._threshold(state)
            return self._report(state, None)

    def record(self, losses: Sequence[float], threshold: float) -> GuardReport:
        """Take in the audited losses of one request, token by token, that was decoded at `threshold`; act on an alarm.

        A request decoded at another threshold than the one in use (it was under way when that changed) says nothing of
        it and is left out, and so is one without tokens.
        """
        watch = self.watch
        counted = [float(loss) for loss in losses[: watch.max_tokens]]
        if any(not watch.low <= loss <= 1.0 for loss in counted):
            raise ConfigError(f"a loss lies outside [{watch.low:g}, 1] or is not a number")
        with self._transaction() as (connection, before):
            state, trip = before, None
            if counted and threshold == self._threshold(before):
                state, trip = self._judged(self._seen(before, counted))
                if trip is not None:
                    connection.execute("INSERT INTO trips VALUES (?, ?)", (watch.key, json.dumps(_plain(trip))))
                self._write(connection, state)
            self.threshold = self._threshold(state)
            return self._report(state, trip)

    def trips(self) -> list[Trip]:
        """Every time the guard acted, oldest first."""
        with self._transaction() as (connection, _):
            rows = connection.execute("SELECT content FROM trips WHERE watch = ?", (self.watch.key,)).fetchall()
        return [_trip(json.loads(row[0])) for row in rows]

    def reset(self) -> None:
        """Go back to the fastest certified threshold."""
        with self._transaction() as (connection, state):
            fresh = self._at(state, len(self.watch.thresholds) - 1)
            self._write(connection, fresh)
            self.threshold = self._threshold(fresh)

    def _seen(self, state: _State, losses: list[float]) -> _State:
        watch = self.watch
        beyond = (sum(losses) - watch.epsilon * len(losses)) / watch.max_tokens
        detector = Detector(watch.epsilon - watch.low, state.detector)
        detector.update(beyond)
        state.bound.update([(loss - watch.low) / (1 - watch.low) for loss in losses])
        seen = replace(state, detector=detector.evidence, requests=state.requests + 1)
        return replace(seen, tokens_total=state.tokens_total + len(losses))

    def _judged(self, state: _State) -> tuple[_State, Trip | None]:
        """The state after an alarm, or after enough good requests; and the alarm."""
        watch, last = self.watch, len(self.watch.thresholds) - 1
        evidence = Detector.mean_of(state.detector)
        if state.step >= 0 and evidence >= watch.mean_time:
            steps = {"warn": state.step, "tighten": state.step - 1, "exact": -1}
            after = self._at(state, steps[watch.action])
            return after, self._trip(state, after, evidence)
        if watch.loosen_after and state.step < last and state.requests >= watch.loosen_after:
            return self._at(state, state.step + 1), None
        return state, None

    def _at(self, state: _State, step: int) -> _State:
        """A fresh start at another threshold: what was seen at this one says nothing of it."""
        return _State(RunningBound(self.watch.alpha), (0.0,) * len(BETS), step, tokens_total=state.tokens_total)

    def _trip(self, state: _State, after: _State, evidence: float) -> Trip:
        watch, mean, now = self.watch, self._natural(state.bound.mean), self._threshold(after)
        done = f"the threshold stays at {now:g}" if watch.action == "warn" else f"the threshold is now {now:g}"
        if math.isinf(now):
            done = "decoding is now exact"
        message = (
            f"{watch.loss} is {mean:.4f} a token over the last {state.requests} requests, at most {watch.epsilon:g} "
            f"was promised: the requests are unlike the calibration prompts; {done}"
        )
        before = self._threshold(state)
        return Trip(state.requests, state.tokens_total, mean, evidence, before, now, message)

    def _report(self, state: _State, trip: Trip | None) -> GuardReport:
        upper = self._natural(state.bound.upper)
        standing: Standing = "exceeded" if trip else "within" if upper <= self.watch.epsilon else "unproven"
        return GuardReport(
            standing=standing,
            threshold=self._threshold(state),
            requests=state.requests,
            tokens_total=state.tokens_total,
            mean=self._natural(state.bound.mean) if state.bound.count else 0.0,
            upper=upper,
            evidence=Detector.mean_of(state.detector),
            trip=trip,
        )

    def _natural(self, unit: float) -> float:
        return self.watch.low + unit * (1 - self.watch.low)

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
                last = len(self.watch.thresholds) - 1
                fresh = _State(RunningBound(self.watch.alpha), (0.0,) * len(BETS), last)
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
