"""What `sprinter plan` learns of a real pair's texts: (a, f) rows of a few prompts. `timing` has the seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sprinter.build import Pair, build_recipe
from sprinter.config import DecodingConfig
from sprinter.core.chance import Chance
from sprinter.core.law import acceptance
from sprinter.core.protocols import Drafter, Recipe, Scorer
from sprinter.core.reading import Reading
from sprinter.core.rows import Model, Needs
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.core.tree import Proposal, Verdict
from sprinter.engine import Engine
from sprinter.errors import DataError
from sprinter.gates.threshold import ThresholdGate
from sprinter.rules.exact import ExactRule
from sprinter.theory.simulator import Rows

SEED_STEP = 1_000_003  # keeps the seeds of unlike texts apart


@dataclass(frozen=True, slots=True)
class Parts:
    """A target, a drafter and a verifier (or any scorer) under one sampling transform."""

    target: Model
    drafter: Drafter
    scorer: Scorer
    sampling: Sampling
    limits: Limits
    survivor: Scorer | None = None  # says how likely a token is to pass, where the scorer predicts something else


def open_parts(pair: Pair, config: DecodingConfig, sampling: Sampling) -> Parts:
    """The parts of a pair for one of the methods with a scorer. Loads both models."""
    # Not every method asks for survival; a plan compares them all.
    past_doubt = dataclasses.replace(config, method="lookahead", lookahead=0.5, max_draft=20, budget=None)
    recipe = build_recipe(pair, past_doubt)
    gate, drafter = recipe.gate, recipe.drafter
    assert isinstance(gate, ThresholdGate) and drafter is not None, "only methods with a scorer are probed"
    return Parts(pair.target, drafter, gate.scorer, sampling, pair.limits(with_draft=True), gate.survivor)


@dataclass(slots=True)
class _Said:
    """What a scorer has said of the pending nodes of one text."""

    numbers: list[float] = field(default_factory=list)

    def rewind(self, length: int) -> None:
        """See `Note.rewind`: whoever reads the numbers empties them."""


class _Heard:
    """A scorer whose words on a text are kept until they are read."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.needs: Needs = scorer.needs

    def score(self, text: Text, proposal: Proposal) -> float:
        """See `Scorer.score`."""
        number = self._scorer.score(text, proposal)
        text.note(self, _Said).numbers.append(number)
        return number

    def said_of(self, text: Text) -> list[float]:
        """The words on the nodes of the present round."""
        said = text.note(self, _Said)
        numbers, said.numbers = said.numbers, []
        return numbers


class _Recorder:
    """Notes (a, f) of every token up to the first that falls."""

    keeps_drafts = False

    def __init__(self, survivor: _Heard) -> None:
        self._survivor = survivor
        self.accept: list[float] = []
        self.score: list[float] = []
        self.survival: list[float] = []

    def saw(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Observer.saw`."""
        tree, survival = text.tree, self._survivor.said_of(text)
        for place in range(len(verdict.path) + (verdict.origin == "resampled")):
            self.accept.append(acceptance(tree.tokens[place], reading.law(place), tree.laws[place]))
            self.score.append(float(tree.scores[place] or 0.0))
            self.survival.append(survival[place])


def probe_rows(
    parts: Parts, prompts: Sequence[Sequence[int]], num_tokens: int, seed: int, draft: int = 8
) -> list[Rows]:
    """(a, f) of the drafted token at each of the first `num_tokens` places after every prompt, all in company.

    The text goes on as the target would write it (exact decoding), so the rows tell of prefixes with no error in
    them; a lossy method visits slightly worse ones.
    """
    if not prompts:
        raise DataError("a probe needs at least one prompt")
    survivor = _Heard(parts.scorer if parts.survivor is None else parts.survivor)
    gate = ThresholdGate(parts.scorer, np.inf, lookahead=0.0, max_draft=draft, survivor=survivor)
    # No bonus: it would fill a place nobody drafted for, and leave it without a row.
    recipe = Recipe(gate, ExactRule(bonus=False), parts.drafter)
    engine, texts, recorders = Engine(parts.target), [], []
    for number, prompt in enumerate(prompts):
        chance = Chance(seed * SEED_STEP + number)
        recorders.append(_Recorder(survivor))
        text = Text(prompt, num_tokens, parts.sampling, chance, parts.limits)
        texts.append(engine.begin(text, recipe, [recorders[-1]]))
    engine.run(texts)
    for text in texts:
        if text.error is not None:
            raise text.error
    return [_rows(recorder, parts.survivor is not None) for recorder in recorders]


def _rows(recorder: _Recorder, survivor: bool) -> Rows:
    survival = np.clip(recorder.survival, 0.0, 1.0) if survivor else None
    return Rows(np.array(recorder.accept), np.clip(recorder.score, 0.0, 1.0), survival)
