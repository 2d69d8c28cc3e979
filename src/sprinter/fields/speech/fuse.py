"""The search of delayed fusion: extend, prune, and only then, now and then, ask the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sprinter.core.rows import FloatArray
from sprinter.errors import ConfigError, DataError
from sprinter.fields.speech.hypotheses import Hypothesis, Weights, extend
from sprinter.fields.speech.scorer import WordScorer
from sprinter.fields.speech.triggers import ALL_WORDS, Trigger


class Search:
    """One utterance's beam search over a CTC recogniser's frames, fed in chunks of any size."""

    def __init__(
        self, symbols: Sequence[str], scorer: WordScorer, trigger: Trigger, weights: Weights, beam: int = 16
    ) -> None:
        """`symbols`: the blank as "", then one character for each label, a space among them."""
        if beam < 1:
            raise ConfigError(f"beam is {beam}, but must be at least 1")
        if not symbols or symbols[0] or any(len(each) != 1 for each in symbols[1:]) or len({*symbols}) < len(symbols):
            raise ConfigError('symbols must be "" for the blank and then different single characters')
        self._symbols, self._scorer, self._trigger = symbols, scorer, trigger
        self._weights, self._width = weights, beam
        self._step = 0
        self.beam = [Hypothesis("", blank=0.0)]

    def feed(self, log_probs: FloatArray) -> None:
        """Search on through frames of log-probabilities [frames, symbols], natural logarithms."""
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self._symbols):
            raise DataError(f"frames have shape {log_probs.shape}, but must be [frames, {len(self._symbols)}]")
        if np.isnan(log_probs).any() or (log_probs > 1e-4).any() or (log_probs.max(axis=1) == -np.inf).any():
            raise DataError("a frame holds what is no log-probability: give log-softmax outputs")
        for frame in log_probs.astype(np.float64):
            candidates = extend(self.beam, frame, self._symbols)
            if self._trigger.before_pruning:
                self._fuse_if_due(candidates)
            self.beam = self._best(candidates)[: self._width]
            if not self._trigger.before_pruning:
                self._fuse_if_due(self.beam)
            self._step += 1

    def finish(self) -> list[Hypothesis]:
        """The utterance is over: every hypothesis with all its words fused, best first. Feeding on stays possible."""
        ended = [replace(hypothesis, ended=True) for hypothesis in self.beam]
        self._fuse(ended, ALL_WORDS)
        return self._best(ended)

    def _best(self, beam: list[Hypothesis]) -> list[Hypothesis]:
        return sorted(beam, key=lambda each: (-each.score(self._weights), each.text))

    def _fuse_if_due(self, beam: Sequence[Hypothesis]) -> None:
        if (goal := self._trigger.words_to_fuse(self._step, beam)) is not None:
            self._fuse(beam, goal)

    def _fuse(self, beam: Sequence[Hypothesis], goal: int) -> None:
        goals = [max(each.fused, min(len(each.words), goal)) for each in beam]
        if self._weights.alpha:
            scores = self._scorer.score_many([each.words[:count] for each, count in zip(beam, goals, strict=True)])
        else:
            scores = [0.0] * len(beam)  # nothing would come of asking
        for each, count, score in zip(beam, goals, scores, strict=True):
            each.fused, each.language = count, score
