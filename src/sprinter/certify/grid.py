"""From a pilot run on other prompts to the thresholds worth testing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sprinter.certify.calibrate import Aim
from sprinter.certify.certificate import Certificate, Setting
from sprinter.certify.risks import risk_named
from sprinter.errors import ConfigError

# Shares of the largest provable mean at which a threshold is placed. The last lies above it, since a pilot may err.
_SHARES = (0.6, 0.85, 1.05)
# A threshold that saves less than this share of the calls of the one before it is not worth its prompts.
_LEAST_SAVING = 0.03
# What may differ between a pilot and a calibration: these shift the losses of a threshold, not what its scores mean.
_FREE = ("method", "lookahead", "max_draft", "preset", "survival")


def grid_from_pilot(pilot: Certificate, aims: Sequence[Aim], num_prompts: int, alpha: float) -> tuple[float, ...]:
    """Thresholds, safest first, around those where a pilot's mean losses come near what each aim can prove.

    With n prompts a betting p-value proves a level epsilon about where the mean is below epsilon - log(1/alpha)/n.
    Between the pilot's thresholds losses and calls are taken to change along straight lines. The choice rests on the
    pilot alone, so the proof stands as long as the pilot's prompts are others than the calibration's.
    """
    rows = pilot.grid
    missing = [aim.loss for aim in aims if any(aim.loss not in row.means for row in rows)]
    if len(rows) < 2 or missing:
        lack = f"no {missing[0]} losses" if missing else "fewer than 2 thresholds"
        raise ConfigError(f"the pilot has {lack}: run it over a wide grid, for looser levels of the same losses")
    thresholds = np.array([row.threshold for row in rows])
    # A loss may seem to fall by chance; the slope keeps np.interp's abscissae ascending where it stays equal.
    slope = 1e-9 * np.arange(len(rows))
    found = {float(thresholds[0])}
    for aim in aims:
        means = np.maximum.accumulate([row.means[aim.loss] for row in rows]) + slope
        low = risk_named(aim.loss).low
        provable = aim.epsilon - (1.0 - low) * math.log(1.0 / alpha) / num_prompts
        found |= {float(np.interp(share * provable, means, thresholds)) for share in _SHARES if provable > low}
    calls = np.interp(-np.array(sorted(found, reverse=True)), -thresholds, [row.calls_per_token for row in rows])
    kept: list[tuple[float, float]] = []
    for threshold, cost in zip(sorted(found, reverse=True), calls, strict=True):
        if not kept or cost <= (1.0 - _LEAST_SAVING) * kept[-1][1]:
            kept.append((round(threshold, 4), float(cost)))
    return tuple(sorted({threshold for threshold, _ in kept}, reverse=True))


def require_pilot_of(pilot: Certificate, setting: Setting, data: str) -> None:
    """ConfigError for a pilot whose thresholds mean something else here, or that saw the calibration's own prompts."""
    same = {name: getattr(setting, name) for name in _FREE}
    if wrong := dataclasses.replace(pilot.setting, **same).mismatches(setting):
        raise ConfigError(f"the pilot is for another setting: {'; '.join(wrong)}; run one with the same models")
    if pilot.data == data:
        raise ConfigError("the pilot ran on the calibration's own prompts, which would break the proof: give others")
