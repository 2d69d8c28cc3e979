"""The guard: quiet while the promise holds, quick when it does not, and one state for all processes."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from sprinter.certify.detector import BETS, Detector
from sprinter.certify.guard import Guard
from sprinter.certify.watch import Watch
from sprinter.errors import ConfigError, DataError

WATCH = Watch("tv", 0.05, thresholds=(0.9, 0.8, 0.7), max_tokens=64)
rng = np.random.default_rng(21)


def request(mean: float, tokens: int = 64) -> list[float]:
    """Losses like real ones: mostly 0, now and then a large one."""
    return list((rng.random(tokens) < 2 * mean) * rng.random(tokens))


def test_a_stream_that_keeps_the_promise_sets_nothing_off_and_is_reported_as_proven(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    reports = [guard.record(request(0.03), 0.7) for _ in range(600)]
    assert guard.trips() == []
    # Not yet proven is something to tell, and nothing to act on.
    assert (reports[0].standing, reports[0].threshold) == ("unproven", 0.7)
    assert reports[-1].standing == "within"
    assert (reports[-1].requests, reports[-1].tokens_total) == (600, 600 * 64)
    assert reports[-1].mean < reports[-1].upper < 0.05


def test_a_promise_that_can_never_be_shown_to_hold_is_no_reason_to_act(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    reports = [guard.record([0.0495] * 64, 0.7) for _ in range(500)]
    assert guard.trips() == []
    assert {report.standing for report in reports} == {"unproven"}


@pytest.mark.parametrize(("action", "threshold"), [("warn", 0.7), ("tighten", 0.8), ("exact", math.inf)])
def test_a_broken_promise_has_the_configured_consequence(tmp_path: Path, action: str, threshold: float) -> None:
    guard = Guard(tmp_path / "g.db", dataclasses.replace(WATCH, action=action))
    report = guard.record(request(0.03), 0.7)
    while report.trip is None:
        assert report.requests < 60
        report = guard.record(request(0.15), 0.7)
    assert report.standing == "exceeded"
    assert report.trip.evidence >= WATCH.mean_time
    assert report.threshold == guard.threshold == threshold
    assert guard.trips() == [report.trip]
    assert "0.05 was promised" in report.trip.message
    # Evidence is used up by an alarm.
    assert guard.look().evidence == 0.0


def test_tightening_goes_on_to_exact_decoding_and_ends_there(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    seen = [guard.record(request(0.2), guard.threshold).threshold for _ in range(200)]
    assert seen == sorted(seen)
    assert [trip.threshold_after for trip in guard.trips()] == [0.8, 0.9, math.inf]
    guard.reset()
    assert guard.threshold == 0.7


def test_after_enough_good_requests_at_the_safer_threshold_the_faster_one_is_tried_again(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", dataclasses.replace(WATCH, loosen_after=50))
    while guard.threshold == 0.7:
        guard.record(request(0.2), 0.7)
    for _ in range(49):
        assert guard.record(request(0.02), 0.8).threshold == 0.8
    assert guard.record(request(0.02), 0.8).threshold == 0.7
    # From exact decoding too, and a threshold that is still bad is left again.
    for _ in range(1_000):
        guard.record(request(0.2), guard.threshold)
    assert len(guard.trips()) > 4
    still = Guard(tmp_path / "never.db", dataclasses.replace(WATCH, loosen_after=0))
    for _ in range(400):
        still.record(request(0.2 if math.isfinite(still.threshold) else 0.0), still.threshold)
    assert math.isinf(still.threshold)


def test_a_request_decoded_at_another_threshold_says_nothing(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    while guard.threshold == 0.7:
        guard.record(request(0.2), 0.7)
    before = guard.look()
    for _ in range(50):
        assert guard.record([1.0] * 64, 0.7) == before  # they were under way
    assert guard.record([], 0.8) == before
    assert guard.record([1.0] * 64, 0.8).requests == before.requests + 1


def test_tokens_behind_the_certified_length_do_not_count(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    report = guard.record([0.0] * 64 + [1.0] * 500, 0.7)
    assert (report.tokens_total, report.mean) == (64, 0.0)


def test_excess_is_watched_with_its_sign(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "g.db", dataclasses.replace(WATCH, loss="excess"))
    for _ in range(300):
        assert guard.record(list(rng.choice([-0.5, 0.5], 64)), 0.7).trip is None
    assert abs(guard.look().mean) < 0.03
    for _ in range(300):
        if (report := guard.record(list(rng.choice([-0.2, 0.5], 64)), 0.7)).trip is not None:
            break
    assert report.trip is not None


@pytest.mark.parametrize("losses", [[1.5], [-0.1], [math.nan]])
def test_what_is_no_loss_is_refused_and_nothing_is_kept(tmp_path: Path, losses: list[float]) -> None:
    guard = Guard(tmp_path / "g.db", WATCH)
    with pytest.raises(ConfigError, match="outside"):
        guard.record(losses, 0.7)
    assert guard.look().requests == 0


def test_state_survives_a_restart_to_the_last_bit_and_another_watch_is_another_stream(tmp_path: Path) -> None:
    losses = [request(0.04) for _ in range(60)]
    whole = Guard(tmp_path / "whole.db", WATCH)
    for each in losses:
        expected = whole.record(each, 0.7)
    for start in (0, 20, 40):
        guard = Guard(tmp_path / "cut.db", WATCH)
        for each in losses[start : start + 20]:
            found = guard.record(each, 0.7)
        guard.close()
    assert found == expected
    assert Guard(tmp_path / "cut.db", dataclasses.replace(WATCH, epsilon=0.06)).look().requests == 0


def _record(path: Path, count: int) -> None:
    guard = Guard(path, WATCH)
    for _ in range(count):
        guard.record([0.01] * 64, 0.7)


def test_processes_share_one_state_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "g.db"
    context = get_context("spawn")
    workers = [context.Process(target=_record, args=(path, 40)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert Guard(path, WATCH).look().requests == 120


def test_a_file_of_an_older_guard_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE state (watch TEXT PRIMARY KEY, content TEXT NOT NULL)")
    with pytest.raises(DataError, match=r"old\.db holds the state of a guard of version 1, this is version 2"):
        Guard(path, WATCH)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(DataError, match="version 3, this is version 2"):
        Guard(path, WATCH)


@pytest.mark.parametrize("change", [{"step": 9}, {"detector": [1.0]}, {"requests": -1}, {"bound": {}}, {"step": "x"}])
def test_a_damaged_state_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "g.db"
    guard = Guard(path, WATCH)
    guard.record([0.0] * 5, 0.7)
    with sqlite3.connect(path) as connection:
        ((text,),) = connection.execute("SELECT content FROM state").fetchall()
        connection.execute("UPDATE state SET content = ?", (json.dumps({**json.loads(text), **change}),))
    with pytest.raises(DataError, match="state is damaged"):
        guard.look()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.db").write_text("notes, long enough to be read as a header of something that it is not" * 20)
    with pytest.raises(DataError, match=r"cannot use .*g\.db"):
        Guard(tmp_path / "g.db", WATCH)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loss": "rouge"}, "cannot watch 'rouge'"),
        ({"epsilon": 0.0}, "epsilon is 0"),
        ({"action": "panic"}, "unknown action"),
        ({"thresholds": (0.7, 0.8)}, "safest first"),
        ({"thresholds": ()}, "safest first"),
        ({"mean_time": 1}, "mean_time is 1"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"loosen_after": -1}, "loosen_after is -1"),
    ],
)
def test_an_impossible_watch_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(WATCH, **change)  # type: ignore[arg-type]


def alarms(lost: np.ndarray, epsilon: float, mean_time: int = 5_000) -> np.ndarray:
    """The request at which each stream [streams, requests] of mean losses sets off an alarm; inf where none does."""
    evidence, found = np.zeros((len(lost), len(BETS))), np.full(len(lost), np.inf)
    bets = np.array(BETS) / epsilon
    for step in range(lost.shape[1]):
        evidence = np.minimum(1e300, (evidence + 1) * (1 + bets * (lost[:, step, None] - epsilon)))
        fresh = (evidence.mean(axis=1) >= mean_time) & np.isinf(found)
        found[fresh] = step + 1
    return found


def beta(mean: float, spread: float, size: tuple[int, int]) -> np.ndarray:
    count = mean * (1 - mean) / spread**2 - 1
    return np.random.default_rng(int(1000 * mean)).beta(mean * count, (1 - mean) * count, size)


def test_the_simulated_detector_is_the_real_one() -> None:
    lost = beta(0.15, 0.06, (3, 60))
    for stream, found in zip(lost, alarms(lost, 0.1), strict=True):
        detector = Detector(0.1)
        when = next((n for n, x in enumerate(stream, 1) if detector.update(x - 0.1) >= 5_000), math.inf)
        assert when == found


@pytest.mark.parametrize(("epsilon", "spread"), [(0.1, 0.05), (0.02, 0.015)])
def test_conforming_streams_of_5000_requests_stay_quiet_and_twice_the_level_is_found_soon(
    epsilon: float, spread: float
) -> None:
    # Per-request means of 64 tokens with the spread of real ones. 300 streams at 0.85 of the level.
    assert np.isfinite(alarms(beta(0.85 * epsilon, spread, (300, 5_000)), epsilon)).mean() <= 0.05
    past = beta(0.85 * epsilon, spread, (300, 200))
    for factor, most in ((1.5, 3_000), (2.0, 1_500), (3.0, 1_000)):
        lost = np.concatenate([past, beta(factor * epsilon, spread * factor, (300, 400))], axis=1)
        assert np.median((alarms(lost, epsilon) - 200) * 64) <= most


def test_exactly_at_the_level_alarms_come_no_sooner_than_stated_on_average() -> None:
    # Bernoulli requests are the hardest. Times are cut at 3 mean times, which can only shorten their mean.
    mean_time = 100
    lost = (np.random.default_rng(9).random((2_000, 300)) < 0.05).astype(float)
    when = np.minimum(alarms(lost, 0.05, mean_time), 300)
    assert when.mean() >= mean_time - 4 * when.std() / np.sqrt(len(when))
