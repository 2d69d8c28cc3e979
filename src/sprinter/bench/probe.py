"""What `sprinter plan` learns of a real pair's texts: (a, f) rows of a few prompts. `timing` has the seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sprinter.build import Pair, build_gate, require_capabilities
from sprinter.config import DecodingConfig
from sprinter.core.records import Draft, Law, Verdict
from sprinter.core.sampling import Dice, Sampling, acceptance, residual
from sprinter.drafters.base import Drafter
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine, Limits
from sprinter.errors import DataError
from sprinter.gates.base import Scorer
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.base import Capabilities, LanguageModel
from sprinter.observers.audit import Audit
from sprinter.theory.simulator import Rows


@dataclass(frozen=True, slots=True)
class Parts:
    """A target, a drafter and a verifier (or any scorer) under one sampling transform."""

    target: LanguageModel
    drafter: Drafter
    scorer: Scorer
    sampling: Sampling
    limits: Limits
    survivor: Scorer | None = None  # says how likely a token is to pass, where the scorer predicts something else


def open_parts(pair: Pair, config: DecodingConfig, sampling: Sampling) -> Parts:
    """The parts of a pair for one of the methods with a scorer. Loads both models."""
    gate = build_gate(pair, config)
    assert isinstance(gate, ThresholdGate), "only methods with a scorer are probed"
    require_capabilities(pair.draft, gate.needs)
    limits = pair.limits(with_draft=True)
    drafter = ModelDrafter(pair.draft, sampling, limits.vocab_size)
    # Not every method asks for survival; a plan compares them all.
    past_doubt = build_gate(pair, dataclasses.replace(config, method="lookahead", lookahead=1.0, max_draft=20))
    assert isinstance(past_doubt, ThresholdGate)
    return Parts(pair.target, drafter, gate.scorer, sampling, limits, past_doubt.survivor)


class _ScoreAll:
    """Scores every drafted token and vouches for none; always the same length."""

    def __init__(self, scorer: Scorer, survivor: Scorer | None, length: int) -> None:
        self.scorer = scorer
        self.survivor = survivor
        self.survival: list[float] = []  # of the present draft's tokens
        self.length = length

    @property
    def needs(self) -> Capabilities:
        return self.scorer.needs

    def vouch(self, draft: Draft) -> tuple[float | None, bool]:
        score = self.scorer.score(draft)
        if len(draft) == 1:
            self.survival.clear()
        self.survival.append(score if self.survivor is None else self.survivor.score(draft))
        return score, False

    def keep_drafting(self, draft: Draft) -> bool:
        return len(draft) < self.length


class _Recorder:
    """Exact acceptance without a bonus token, noting (a, f) of every token up to the first failure."""

    def __init__(self, gate: _ScoreAll) -> None:
        self._gate = gate
        self.accept: list[float] = []
        self.score: list[float] = []
        self.survival: list[float] = []

    def judge(self, draft: Draft, target_laws: Sequence[Law], dice: Dice) -> Verdict:
        for place, token in enumerate(draft.tokens):
            draft_law = draft.proposals[place].law
            chance = acceptance(token, target_laws[place], draft_law)
            self.accept.append(chance)
            self.score.append(float(draft.scores[place] or 0.0))
            self.survival.append(self._gate.survival[place])
            if not dice.accept(chance):
                return Verdict(place, dice.draw(residual(target_laws[place], draft_law)), "resampled")
        # No bonus: it would fill a place nobody drafted for, and leave it without a row.
        return Verdict(len(draft), None, None)


def probe_rows(
    parts: Parts, prompts: Sequence[Sequence[int]], num_tokens: int, dice: Dice, draft: int = 8
) -> list[Rows]:
    """(a, f) of the drafted token at each of the first `num_tokens` places after every prompt.

    The text goes on as the target would write it (exact decoding), so the rows tell of prefixes with no error in
    them; a lossy method visits slightly worse ones.
    """
    traces = []
    for prompt in prompts:
        gate = _ScoreAll(parts.scorer, parts.survivor, draft)
        recorder = _Recorder(gate)
        engine = Engine(parts.target, parts.drafter, gate, recorder, parts.sampling, parts.limits)
        for _ in engine.start(prompt, num_tokens, dice, Audit()):
            pass
        survival = None if parts.survivor is None else np.clip(recorder.survival, 0.0, 1.0)
        traces.append(Rows(np.array(recorder.accept), np.clip(recorder.score, 0.0, 1.0), survival))
    if not traces:
        raise DataError("a probe needs at least one prompt")
    return traces
