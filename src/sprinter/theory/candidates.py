"""The settings a plan compares, and what each is expected to cost, by closed form or by replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sprinter.errors import ConfigError
from sprinter.theory.closed_forms import RoundLaw, exact_round, lookahead_round, sprinter_round
from sprinter.theory.costs import Costs, seconds_per_token
from sprinter.theory.replay import replay
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import Rows
from sprinter.theory.token_law import TokenLaw

Method = Literal["target", "exact", "lossless", "sprinter", "lookahead"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method and its gate; no gate for the target alone."""

    method: Method
    setting: Setting | None

    @property
    def with_verifier(self) -> bool:
        return self.method in ("lossless", "sprinter", "lookahead")

    def describe(self) -> str:
        """Name and settings in a few words."""
        setting = self.setting
        if setting is None:
            return "the target alone"
        if self.method == "exact":
            return f"exact with {setting.cap} drafted token{'s' if setting.cap > 1 else ''}"
        words = [f"cap {setting.cap}"]
        if self.method != "sprinter":
            words.insert(0, f"lookahead {setting.lookahead:g}")
        if self.method != "lossless":
            words.insert(0, f"threshold {setting.threshold:.4g}")
        return f"{self.method} with {', '.join(words)}"

    def flags(self) -> str:
        """The flags of `sprinter generate` that choose it."""
        words = [f"--method {self.method}"]
        setting = self.setting
        if setting is None:
            return words[0]
        if self.method == "exact":
            return f"{words[0]} --draft-length {setting.cap}"
        if self.method != "lossless":
            # Rounded down: a rounded-up threshold would no longer vouch for the score it was taken from.
            words.append(f"--threshold {math.floor(setting.threshold * 1e6) / 1e6:g}")
        if self.method != "sprinter":
            words.append(f"--lookahead {setting.lookahead:g}")
        return " ".join([*words, f"--max-draft {setting.cap}"])


@dataclass(frozen=True, slots=True)
class PromptTotals:
    """Expected totals by prompt, for a bootstrap over prompts."""

    tokens: NDArray[np.float64]  # [prompts]
    seconds: NDArray[np.float64]  # [prompts]
    loss: NDArray[np.float64]  # [prompts]

    def alone_s(self, costs: Costs) -> NDArray[np.float64]:
        """Seconds the target alone would take for as many tokens, [prompts]."""
        return self.tokens * costs.alone_s + costs.target_prompt_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a candidate is expected to do."""

    candidate: Candidate
    seconds_per_token: float
    speedup: float  # over the target alone
    loss: float  # mean over the emitted tokens: one-step TV, or what the replayed rows say vouching costs
    calls_per_token: float
    drafted_per_token: float
    per_prompt: PromptTotals | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """The settings tried. Thresholds are quantiles of the scores at hand."""

    max_draft: int = 20
    num_thresholds: int = 17
    lookaheads: tuple[float, ...] = (0.6, 0.35, 0.15)

    def __post_init__(self) -> None:
        if self.max_draft < 1 or self.num_thresholds < 2:
            raise ConfigError("a grid needs max_draft of at least 1 and num_thresholds of at least 2")
        if not all(0.0 < h < 1.0 for h in self.lookaheads):
            raise ConfigError(f"lookaheads must lie strictly between 0 and 1, got {self.lookaheads}")

    @property
    def caps(self) -> tuple[int, ...]:
        """max_draft, its half and its quarter."""
        return tuple(sorted({self.max_draft, max(1, self.max_draft // 2), max(1, self.max_draft // 4)}))

    def candidates(self, law: TokenLaw) -> list[Candidate]:
        """Every setting of the grid, each once."""
        found = [Candidate("exact", Setting.exact(length)) for length in range(1, self.max_draft + 1)]
        for cap in self.caps:
            found += [Candidate("lossless", Setting.lossless(h, cap)) for h in self.lookaheads]
            for threshold in law.thresholds(self.num_thresholds):
                # A gate that vouches for next to nobody is lossless in all but name.
                if law.split(float(threshold)).stop_prob > 0.998:
                    continue
                found.append(Candidate("sprinter", Setting(float(threshold), 1.0, cap)))
                found += [Candidate("lookahead", Setting(float(threshold), h, cap)) for h in self.lookaheads]
        return found


def target_outcome(costs: Costs, tokens_per_text: float = math.inf) -> Outcome:
    """The target alone: one call for each token, and its reading of the prompt spread over the text."""
    seconds = costs.alone_s + costs.target_prompt_s / tokens_per_text
    return Outcome(Candidate("target", None), seconds, 1.0, 0.0, 1.0, 0.0)


def law_outcome(candidate: Candidate, law: TokenLaw, costs: Costs) -> Outcome:
    """A candidate's outcome by the closed forms: independent tokens of one law, a text without end."""
    if candidate.setting is None:
        return target_outcome(costs)
    round_law = _round_of(candidate, candidate.setting, law)
    seconds = seconds_per_token(round_law, costs, candidate.with_verifier)
    return Outcome(
        candidate,
        seconds,
        costs.alone_s / seconds,
        round_law.loss_per_token,
        round_law.calls_per_token,
        round_law.drafted / round_law.tokens,
    )


def _round_of(candidate: Candidate, setting: Setting, law: TokenLaw) -> RoundLaw:
    if candidate.method == "exact":
        return exact_round(law.alpha, setting.cap)
    if candidate.method == "sprinter":
        return sprinter_round(law.split(setting.threshold), setting.cap)
    return lookahead_round(law, setting.threshold, setting.lookahead, setting.cap)


def trace_outcome(candidate: Candidate, traces: Sequence[Rows], costs: Costs) -> Outcome:
    """A candidate's outcome by exact replay of recorded rows, each trace a text of its own behind a prompt."""
    if candidate.setting is None:
        return target_outcome(costs, sum(len(rows.accept) for rows in traces) / len(traces))
    totals = replay(traces, candidate.setting)
    seconds = totals.seconds(costs, candidate.with_verifier)  # [prompts]
    per_prompt = PromptTotals(totals.tokens, seconds, totals.loss)
    tokens = float(totals.tokens.sum())
    return Outcome(
        candidate,
        float(seconds.sum()) / tokens,
        float(per_prompt.alone_s(costs).sum() / seconds.sum()),
        float(totals.loss.sum()) / tokens,
        float(totals.calls.sum()) / tokens,
        float(totals.drafted.sum()) / tokens,
        per_prompt,
    )
