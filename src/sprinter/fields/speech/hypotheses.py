"""What a recogniser's beam holds: label prefixes with their CTC mass, and what a language model said of their words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sprinter.core.rows import FloatArray
from sprinter.errors import ConfigError

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """What a hypothesis's score adds to the recogniser's log-probability, nats."""

    alpha: float = 0.5  # times the language model's log-probability of the fused words
    beta: float = 0.0  # for each fused word
    rho: float = 0.0  # for each complete word that waits for its language model's score

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be a finite number")


@dataclass(slots=True)
class Hypothesis:
    """A text so far: `text` is spelt by CTC labels, a blank or its last label having ended the paths to it."""

    text: str
    blank: float = -math.inf  # log-probability of the paths that end in a blank
    label: float = -math.inf  # log-probability of the paths that end in the last label
    fused: int = 0  # words whose language model's score counts
    language: float = 0.0  # log-probability of those words, nats
    ended: bool = False  # the utterance is over, so the last word is complete as well

    @property
    def words(self) -> Words:
        """The complete words: those a space follows, and the last one once the utterance has ended."""
        words = self.text.split()
        return tuple(words if self.ended or self.text[-1:] == " " else words[:-1])

    @property
    def acoustic(self) -> float:
        """The recogniser's log-probability of the text as a prefix."""
        return float(np.logaddexp(self.blank, self.label))

    def score(self, weights: Weights) -> float:
        """S(h) of delayed fusion; nothing waits once all words are fused."""
        waiting = len(self.words) - self.fused
        paid = weights.alpha * self.language + weights.beta * self.fused
        return self.acoustic + paid + weights.rho * waiting


def extend(beam: Sequence[Hypothesis], frame: FloatArray, symbols: Sequence[str]) -> list[Hypothesis]:
    """All prefixes one frame on; `frame` holds log-probabilities [symbols], the blank's first, in `symbols` as "".

    Prefixes with equal labels become one: their acoustic mass adds up, and the more fused one's words stay paid.
    """
    found: dict[str, Hypothesis] = {}

    def reach(text: str, parent: Hypothesis) -> Hypothesis:
        made = found.setdefault(text, Hypothesis(text))
        if parent.fused > made.fused:
            made.fused, made.language = parent.fused, parent.language
        return made

    for parent in beam:
        total, last = parent.acoustic, parent.text[-1:]
        stays = reach(parent.text, parent)
        stays.blank = float(np.logaddexp(stays.blank, total + frame[0]))
        for symbol, log_prob in zip(symbols[1:], frame[1:], strict=True):
            if symbol == last:
                stays.label = float(np.logaddexp(stays.label, parent.label + log_prob))
            # A doubled label needs a blank between its two.
            before = parent.blank if symbol == last else total
            if before + log_prob > -math.inf:
                grown = reach(parent.text + symbol, parent)
                grown.label = float(np.logaddexp(grown.label, before + log_prob))
    return [hypothesis for hypothesis in found.values() if hypothesis.acoustic > -math.inf]
