"""From a pilot run on other prompts to the thresholds worth testing."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sprinter.certify.certificate import Certificate, GridRow, Setting
from sprinter.certify.risks import Aim, Frame, risk_named
from sprinter.errors import ConfigError

# Shares of the largest provable mean at which a threshold is placed. The last lies above it, since a pilot may err.
_SHARES = (0.6, 0.85, 1.05)
# A threshold that saves less than this share of the calls of the one before it is not worth its prompts.
_LEAST_SAVING = 0.03
_MOST_SAVING = 0.25  # and one that saves more has others before it
# What may differ between a pilot and a calibration: these shift the losses of a threshold, not what its scores mean.
_FREE = ("method", "lookahead", "max_draft", "preset", "survival", "drafted", "max_total_tv", "max_atypical_tokens")


def provable(aim: Aim, num_prompts: int, alpha: float, frame: Frame) -> float:
    """The mean loss up to which a betting p-value proves an aim with so many prompts, about.

    The range that counts is that of the longest texts, whose losses a pilot knows best.
    """
    risk = risk_named(aim.loss)
    low, high = frame.spread(risk, frame.max_new_tokens)
    return aim.epsilon - (high - low) * math.log(1.0 / alpha) / num_prompts


def expected_calls(pilot: Certificate, aim: Aim, num_prompts: int, alpha: float, frame: Frame) -> float | None:
    """Target calls per token where a pilot expects the aim to be proven; None where it saw nothing of it."""
    rows = pilot.grid
    if not rows or any(aim.loss not in row.means for row in rows):
        return None
    means, calls = _ascending(rows, aim.loss), [row.calls_per_token for row in rows]
    return float(np.interp(provable(aim, num_prompts, alpha, frame), means, calls))


def grid_from_pilot(
    pilot: Certificate, aims: Sequence[Aim], num_prompts: int, alpha: float, frame: Frame
) -> tuple[float, ...]:
    """Thresholds, safest first, around those where a pilot's mean losses come near what each aim can prove.

    Between the pilot's thresholds losses and calls are taken to change along straight lines. The choice rests on the
    pilot alone, so the proof stands as long as the pilot's prompts are others than the calibration's.
    """
    rows = pilot.grid
    missing = [aim.loss for aim in aims if any(aim.loss not in row.means for row in rows)]
    if len(rows) < 2 or missing:
        lack = f"no {missing[0]} losses" if missing else "fewer than 2 thresholds"
        raise ConfigError(f"the pilot has {lack}: run it over a wide grid, for looser levels of the same losses")
    thresholds = np.array([row.threshold for row in rows])
    found = {float(thresholds[0])}
    for aim in aims:
        means, most = _ascending(rows, aim.loss), provable(aim, num_prompts, alpha, frame)
        found |= {float(np.interp(share * most, means, thresholds)) for share in _SHARES if most > 0}
    calls = np.interp(-np.array(sorted(found, reverse=True)), -thresholds, [row.calls_per_token for row in rows])
    kept: list[tuple[float, float]] = []
    for threshold, cost in zip(sorted(found, reverse=True), calls, strict=True):
        if not kept or cost <= (1.0 - _LEAST_SAVING) * kept[-1][1]:
            kept.append((round(threshold, 4), float(cost)))
    return tuple(sorted({threshold for threshold, _ in [*kept, *_between(kept, rows)]}, reverse=True))


def _between(kept: Sequence[tuple[float, float]], rows: Sequence[GridRow]) -> list[tuple[float, float]]:
    """Thresholds where one would save more than _MOST_SAVING of the calls of the one before it: what a pilot takes for
    no loss at all may be one, and a level that just fails should not fall back that far."""
    falling = np.minimum.accumulate([row.calls_per_token for row in rows]) - 1e-9 * np.arange(len(rows))
    found: list[tuple[float, float]] = []
    for (_, dear), (_, cheap) in itertools.pairwise(kept):
        steps = math.ceil(math.log(max(cheap, 1e-6) / dear) / math.log(1 - _MOST_SAVING) - 1e-9)
        for cost in np.geomspace(dear, cheap, steps + 1)[1:-1] if steps > 1 else ():
            place = float(np.interp(-cost, -falling, [row.threshold for row in rows]))
            found.append((round(place, 4), float(cost)))
    return found


def _ascending(rows: Sequence[GridRow], loss: str) -> NDArray[np.float64]:
    """Mean losses made to rise: one may seem to fall by chance, and np.interp wants no two alike."""
    rising: NDArray[np.float64] = np.maximum.accumulate([row.means[loss] for row in rows])
    return rising + 1e-9 * np.arange(len(rows))


def require_pilot_of(pilot: Certificate, setting: Setting, hashes: Sequence[str]) -> None:
    """ConfigError for a pilot whose thresholds mean something else here, or that saw one of its prompts."""
    same = {name: getattr(setting, name) for name in _FREE}
    if wrong := dataclasses.replace(pilot.setting, **same).mismatches(setting):
        raise ConfigError(f"the pilot is for another setting: {'; '.join(wrong)}; run one with the same models")
    if pilot.is_old:
        raise ConfigError("the pilot does not say which prompts it saw: run it again")
    if common := len(set(pilot.hashes) & set(hashes)):
        raise ConfigError(
            f"the pilot saw {common} of the calibration's own prompts, which would break the proof: give others"
        )
