"""A pilot's certificate fixes a grid near what each level can prove, and only if it may."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from sprinter.certify.certificate import Certificate, GridRow, Setting, prompt_hash
from sprinter.certify.grid import expected_calls, grid_from_pilot, require_pilot_of
from sprinter.certify.risks import Aim, Frame
from sprinter.core.records import Budget
from sprinter.errors import ConfigError

SETTING = Setting(
    *("a" * 64, "toy", "float64", "b" * 64, "toy", "float64", "c" * 64), "accept", "sprinter", "default", 20, 1.0, {}
)


def pilot(rows: list[tuple[float, float, float]]) -> Certificate:
    """A certificate of (threshold, calls per token, mean tv) rows; the atypical rate is a tenth of the tv."""
    grid = [
        GridRow(t, 30, calls, {"tv": tv, "atypical": tv / 10}, {"tv": 1.0, "atypical": 1.0}) for t, calls, tv in rows
    ]
    return Certificate(
        SETTING, 0.5, "hoeffding-bentkus", 30, 64, "d" * 64, grid, [], {}, 8, [prompt_hash("one"), prompt_hash("two")]
    )


FRAME = Frame(64)

# Losses rise and calls fall along straight lines, with a dip that can only be chance.
LINE = pilot([(0.9, 0.8, 0.0), (0.8, 0.6, 0.05), (0.7, 0.4, 0.04), (0.6, 0.2, 0.15)])


def test_the_grid_lies_around_what_can_be_proven_and_its_order_is_safe_to_fast() -> None:
    aim = Aim("tv", 0.05)
    provable = 0.05 - math.log(20) / 300
    grid = grid_from_pilot(LINE, [aim], 300, 0.05, FRAME)
    assert grid[0] == 0.9
    assert all(a > b for a, b in itertools.pairwise(grid))
    means = np.interp(-np.array(grid), [-0.9, -0.8, -0.7, -0.6], [0.0, 0.05, 0.05, 0.15])
    assert means[-2] < provable < means[-1] < 1.1 * provable


def test_each_level_brings_thresholds_of_its_own_and_close_neighbours_are_dropped() -> None:
    one = grid_from_pilot(LINE, [Aim("tv", 0.05)], 300, 0.05, FRAME)
    both = grid_from_pilot(LINE, [Aim("tv", 0.05), Aim("tv", 0.1)], 300, 0.05, FRAME)
    assert min(both) < 0.7 < min(one)
    assert grid_from_pilot(LINE, [Aim("tv", 0.05), Aim("tv", 0.0501)], 300, 0.05, FRAME) == one
    # A level that no number of clean prompts of this size proves adds nothing.
    assert grid_from_pilot(LINE, [Aim("tv", 0.05), Aim("atypical", 0.005)], 300, 0.05, FRAME) == one


def test_a_pilot_that_saw_too_little_is_refused() -> None:
    with pytest.raises(ConfigError, match="fewer than 2 thresholds"):
        grid_from_pilot(pilot([(0.9, 0.8, 0.2)]), [Aim("tv", 0.05)], 300, 0.05, FRAME)
    with pytest.raises(ConfigError, match="no rouge losses"):
        grid_from_pilot(LINE, [Aim("rouge", 0.3)], 300, 0.05, FRAME)


def test_a_pilot_of_another_verifier_or_on_the_same_prompts_is_refused() -> None:
    require_pilot_of(
        LINE,
        dataclasses.replace(SETTING, method="lookahead", lookahead=0.3, max_draft=8, survival="accept"),
        ["e" * 16],
    )
    with pytest.raises(ConfigError, match=r"another setting: verifier is f"):
        require_pilot_of(LINE, dataclasses.replace(SETTING, verifier="f" * 64), [])
    # One prompt in common is enough, wherever it stands: all prompts in another order, or fewer, are no other sample.
    with pytest.raises(ConfigError, match="1 of the calibration's own prompts"):
        require_pilot_of(LINE, SETTING, [prompt_hash("three"), prompt_hash(" two ")])
    with pytest.raises(ConfigError, match="does not say which prompts"):
        require_pilot_of(dataclasses.replace(LINE, shortest=0, hashes=[]), SETTING, [])


def test_a_budget_moves_the_grid_to_faster_thresholds_and_the_pilot_tells_what_calls_to_expect() -> None:
    aim = Aim("tv", 0.05)
    held = Frame(64, budget=Budget(8.0))
    assert min(grid_from_pilot(LINE, [aim], 300, 0.05, held)) <= min(grid_from_pilot(LINE, [aim], 300, 0.05, FRAME))
    free, tight = (expected_calls(LINE, aim, 300, 0.05, frame) for frame in (FRAME, held))
    assert free is not None and tight is not None and 0.4 <= tight < free < 0.8
    assert expected_calls(LINE, Aim("rouge", 0.3), 300, 0.05, FRAME) is None


def test_where_a_pilot_saw_no_loss_there_are_thresholds_on_the_way() -> None:
    # All of these lose nothing on 30 prompts; one step from 0.9 to 0.2 calls would be all or nothing.
    flat = pilot([(0.9, 0.8, 0.0), (0.8, 0.6, 0.0), (0.7, 0.4, 0.0), (0.6, 0.2, 0.0)])
    grid = grid_from_pilot(flat, [Aim("tv", 0.05)], 300, 0.05, FRAME)
    calls = np.interp(-np.array(grid), [-0.9, -0.8, -0.7, -0.6], [0.8, 0.6, 0.4, 0.2])
    assert (grid[0], grid[-1]) == (0.9, 0.6)
    assert min(b / a for a, b in itertools.pairwise(calls)) > 0.7
