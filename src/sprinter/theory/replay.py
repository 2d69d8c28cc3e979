"""The expected cost of a method on recorded (a, f) rows: every coin summed out, the order of the rows kept.

The gate reads only scores, so the length of a run that starts at a row is known; only the tests are chance. One pass
over the rows with the chance that a round starts at each of them then gives every expectation exactly: no Monte Carlo
error, and the dependence between neighbouring tokens and between the tokens of a prompt stays in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sprinter.errors import DataError
from sprinter.theory.costs import Costs
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import Rows, draft_run

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Replay:
    """Expected totals of each prompt; ratios of their sums are the method's rates."""

    tokens: Array  # [prompts]
    calls: Array  # [prompts]
    drafted: Array  # [prompts]
    tested: Array  # [prompts]
    loss: Array  # [prompts], summed cost of vouched tokens: v (1 - a) unless the rows say otherwise
    widths: Array  # [prompts, cap + 2]: expected target calls by width

    def seconds(self, costs: Costs, with_verifier: bool) -> Array:
        """Expected seconds of each prompt's text, both models' reading of the prompt included, [prompts]."""
        step_s = costs.draft_s + (costs.verifier_s if with_verifier else 0.0)
        by_width = costs.target_s.at(np.maximum(1, np.arange(self.widths.shape[1])))
        reading_s = costs.target_prompt_s + costs.draft_prompt_s
        return np.asarray(self.drafted * step_s + self.widths @ by_width + self.tokens * costs.token_s + reading_s)


def replay(traces: Sequence[Rows], setting: Setting) -> Replay:
    """Expected totals of every prompt when rounds follow each other over its rows until all are passed.

    reach[i], the chance that a round starts at row i, starts as 1 at row 0 and is handed on: to u + 1 with the chance
    that unvouched row u is the first to fail, to i + n + 1 after a bonus, to i + n where nothing was tested. The last
    round is finished on rows taken from the prompt's beginning and its tokens counted, so that no cut-off round
    biases the rates.
    """
    if not traces:
        raise DataError("there is no recorded prompt to replay")
    totals = [_replay_one(rows, setting) for rows in traces]
    tokens, calls, drafted, tested, loss = np.array([t[0] for t in totals]).T  # [5, prompts]
    return Replay(tokens, calls, drafted, tested, loss, np.array([t[1] for t in totals]))


def _replay_one(rows: Rows, setting: Setting) -> tuple[tuple[float, ...], list[float]]:
    count = len(rows.accept)
    wrap = np.arange(count + setting.cap) % count
    columns = (rows.accept, rows.score, rows.survival, rows.loss)
    accept, score, survival, cost = (column[wrap].tolist() for column in columns)
    reach = [1.0] + [0.0] * (count + setting.cap)
    widths = [0.0] * (setting.cap + 2)
    drafted = tested = loss = calls = 0.0
    for start in range(count):
        chance = reach[start]
        if chance == 0.0:
            continue
        length, doubtful = draft_run(score, survival, start, setting)
        calls += chance
        drafted += chance * length
        tested += chance * len(doubtful)
        widths[length + 1] += chance
        unseen = set(doubtful)
        for place in range(start, start + length):
            if place in unseen:
                reach[place + 1] += chance * (1.0 - accept[place])
                chance *= accept[place]
            else:
                loss += chance * cost[place]
        reach[start + length + bool(doubtful)] += chance
    tokens = sum(position * reach[position] for position in range(count, len(reach)))
    return (tokens, calls, drafted, tested, loss), widths
