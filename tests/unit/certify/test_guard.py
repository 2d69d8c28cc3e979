"""The guard: acts on proof or on the lack of it, once, and survives restarts."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from sprinter.certify.guard import Guard, Watch
from sprinter.errors import ConfigError, DataError

WATCH = Watch("tv", 0.05, thresholds=(0.9, 0.8, 0.7), grace=5_000, window=20_000)
rng = np.random.default_rng(21)


def request(mean: float, tokens: int = 100) -> list[float]:
    """Losses like real ones: mostly 0, now and then a large one."""
    return list((rng.random(tokens) < 2 * mean) * rng.random(tokens))


def test_a_stream_that_keeps_the_promise_sets_nothing_off(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    reports = [guard.record(request(0.03)) for _ in range(600)]
    assert guard.trips() == []
    assert reports[0].standing == "warming"
    assert reports[150].standing == "within"
    assert guard.threshold == 0.7
    assert reports[-1].tokens_total == 60_000
    # A full window has had its say, and the next one starts from nothing.
    assert max(report.tokens_in_window for report in reports) == 20_000


@pytest.mark.parametrize(("action", "threshold"), [("warn", 0.7), ("tighten", 0.8), ("exact", math.inf)])
def test_a_broken_promise_has_the_configured_consequence(tmp_path: Path, action: str, threshold: float) -> None:
    guard = Guard(tmp_path / "g.db", dataclasses.replace(WATCH, action=action))
    report = guard.record(request(0.03))
    while report.trip is None:
        assert report.tokens_total < 5_000
        report = guard.record(request(0.15))
    assert report.trip.standing == "exceeded"
    assert report.trip.lower > 0.05
    assert report.threshold == guard.threshold == threshold
    assert guard.trips() == [report.trip]
    assert "0.05 was promised" in report.trip.message
    # Nothing is said twice about the same window.
    if action == "warn":
        assert [guard.record(request(0.15)).trip for _ in range(5)] == [None] * 5


def test_tightening_goes_on_to_exact_decoding_and_ends_there(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    seen = [guard.record(request(0.2)).threshold for _ in range(100)]
    assert seen == sorted(seen)
    assert [trip.threshold_after for trip in guard.trips()] == [0.8, 0.9, math.inf]
    guard.reset()
    assert guard.threshold == 0.7


def test_a_promise_that_cannot_be_shown_to_hold_ends_with_the_grace(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    trip = None
    while trip is None:
        report = guard.record(request(0.049))
        trip = report.trip
    assert trip.standing == "unproven"
    assert trip.tokens_in_window == 5_000
    assert trip.upper > 0.05 > trip.lower


def test_a_good_past_does_not_hide_a_bad_present(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    for _ in range(1_000):
        assert guard.record(request(0.02)).trip is None
    tokens = 0
    while guard.record(request(0.15)).trip is None:
        tokens += 100
    # Over the whole past of 100,000 tokens the mean would pass 5% only 30,000 bad tokens later.
    assert tokens < 21_000


def test_the_state_survives_a_restart(tmp_path: Path) -> None:
    straight, stopped = Guard(tmp_path / "a.db", WATCH), Guard(tmp_path / "b.db", WATCH)
    for _ in range(30):
        losses = request(0.1)
        expected = straight.record(losses)
        stopped = Guard(tmp_path / "b.db", WATCH)
        assert stopped.record(losses) == expected
    assert stopped.trips() == straight.trips() != []


def test_another_promise_is_another_watch(tmp_path: Path) -> None:
    Guard(tmp_path / "g.db", WATCH).record(request(0.1, 1_000))
    for change in ({"epsilon": 0.06}, {"loss": "atypical"}, {"setting": "other pair"}, {"thresholds": (0.9,)}):
        other = Guard(tmp_path / "g.db", dataclasses.replace(WATCH, **change))
        assert other.record([0.0]).tokens_total == 1


def record_some(path: Path) -> None:
    guard = Guard(path, WATCH)
    for _ in range(50):
        guard.record([0.0] * 10)


def test_two_processes_share_one_guard_without_losing_a_request(tmp_path: Path) -> None:
    path = tmp_path / "g.db"
    context = get_context("fork")
    workers = [context.Process(target=record_some, args=(path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert Guard(path, WATCH).record([0.0]).tokens_total == 1_001


def test_a_refused_request_changes_nothing(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    with pytest.raises(ConfigError, match="outside"):
        guard.record([0.1, 1.5])
    assert guard.record([0.0]).tokens_total == 1


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "g.db"
    path.write_bytes(b"not a database, but long enough to be read as one" * 20)
    with pytest.raises(DataError, match=r"g\.db"):
        Guard(path, WATCH)
    path.unlink()
    Guard(path, WATCH).record([0.0])
    for content in ("{", "[]", '{"bound": {}}', '{"bound": 1}'):
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE state SET content = ?", (content,))
        connection.close()
        with pytest.raises(DataError, match="damaged"):
            Guard(path, WATCH)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loss": "rouge"}, "cannot watch 'rouge'"),
        ({"loss": "bleu"}, "unknown loss"),
        ({"epsilon": 0.0}, "epsilon is 0"),
        ({"alpha": 1.0}, "alpha is 1"),
        ({"action": "panic"}, "unknown action"),
        ({"thresholds": ()}, "certified thresholds"),
        ({"thresholds": (0.7, 0.8)}, "certified thresholds"),
        ({"grace": 30_000}, "grace is 30000"),
    ],
)
def test_an_impossible_watch_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(WATCH, **change)
