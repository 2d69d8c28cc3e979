"""A pilot's certificate fixes a grid near what each level can prove, and only if it may."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from sprinter.certify.calibrate import Aim
from sprinter.certify.certificate import Certificate, GridRow, Setting
from sprinter.certify.grid import grid_from_pilot, require_pilot_of
from sprinter.errors import ConfigError

SETTING = Setting(
    *("a" * 64, "toy", "float64", "b" * 64, "toy", "float64", "c" * 64), "accept", "sprinter", "default", 20, 1.0, {}
)


def pilot(rows: list[tuple[float, float, float]]) -> Certificate:
    """A certificate of (threshold, calls per token, mean tv) rows; the atypical rate is a tenth of the tv."""
    grid = [
        GridRow(t, 30, calls, {"tv": tv, "atypical": tv / 10}, {"tv": 1.0, "atypical": 1.0}) for t, calls, tv in rows
    ]
    return Certificate(SETTING, 0.5, "hoeffding-bentkus", 30, 64, "d" * 64, grid, [], {})


# Losses rise and calls fall along straight lines, with a dip that can only be chance.
LINE = pilot([(0.9, 0.8, 0.0), (0.8, 0.6, 0.05), (0.7, 0.4, 0.04), (0.6, 0.2, 0.15)])


def test_the_grid_lies_around_what_can_be_proven_and_its_order_is_safe_to_fast() -> None:
    aim = Aim("tv", 0.05)
    provable = 0.05 - math.log(20) / 300
    grid = grid_from_pilot(LINE, [aim], 300, 0.05)
    assert grid[0] == 0.9
    assert all(a > b for a, b in itertools.pairwise(grid))
    means = np.interp(-np.array(grid), [-0.9, -0.8, -0.7, -0.6], [0.0, 0.05, 0.05, 0.15])
    assert means[-2] < provable < means[-1] < 1.1 * provable


def test_each_level_brings_thresholds_of_its_own_and_close_neighbours_are_dropped() -> None:
    one = grid_from_pilot(LINE, [Aim("tv", 0.05)], 300, 0.05)
    both = grid_from_pilot(LINE, [Aim("tv", 0.05), Aim("tv", 0.1)], 300, 0.05)
    assert min(both) < 0.7 < min(one)
    assert grid_from_pilot(LINE, [Aim("tv", 0.05), Aim("tv", 0.0501)], 300, 0.05) == one
    # A level that no number of clean prompts of this size proves adds nothing.
    assert grid_from_pilot(LINE, [Aim("tv", 0.05), Aim("atypical", 0.005)], 300, 0.05) == one


def test_a_pilot_that_saw_too_little_is_refused() -> None:
    with pytest.raises(ConfigError, match="fewer than 2 thresholds"):
        grid_from_pilot(pilot([(0.9, 0.8, 0.2)]), [Aim("tv", 0.05)], 300, 0.05)
    with pytest.raises(ConfigError, match="no rouge losses"):
        grid_from_pilot(LINE, [Aim("rouge", 0.3)], 300, 0.05)


def test_a_pilot_of_another_verifier_or_on_the_same_prompts_is_refused() -> None:
    require_pilot_of(
        LINE, dataclasses.replace(SETTING, method="lookahead", lookahead=0.3, max_draft=8, survival="accept"), "e" * 64
    )
    with pytest.raises(ConfigError, match=r"another setting: verifier is f"):
        require_pilot_of(LINE, dataclasses.replace(SETTING, verifier="f" * 64), "e" * 64)
    with pytest.raises(ConfigError, match="own prompts"):
        require_pilot_of(LINE, SETTING, "d" * 64)
