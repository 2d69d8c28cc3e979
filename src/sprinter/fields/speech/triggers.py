"""When a beam's words are fused and how far: the delay of delayed fusion (arXiv 2501.09258)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sprinter.errors import ConfigError
from sprinter.fields.speech.hypotheses import Hypothesis

ALL_WORDS = 1 << 30
NAMES = ("never", "interval:FRAMES", "shortest", "word-end", "candidates")


@dataclass(frozen=True, slots=True)
class Trigger:
    """`never` leaves all to the end of the utterance (N-best rescoring); `interval` fuses every so many frames;
    `shortest` whenever the hypothesis with the fewest words has a new one, and all to its count; `word-end` whenever a
    survivor has a new word; `candidates` the same before pruning (word-level shallow fusion).
    """

    name: str
    frames: int = 1  # of `interval`

    @property
    def before_pruning(self) -> bool:
        return self.name == "candidates"

    def words_to_fuse(self, step: int, beam: Sequence[Hypothesis]) -> int | None:
        """Up to how many words each hypothesis is to be fused after frame `step` (from 0), or None."""
        if self.name == "never" or (self.name == "interval" and step % self.frames != self.frames - 1):
            return None
        counts = [len(hypothesis.words) for hypothesis in beam]
        goal = min(counts) if self.name == "shortest" else ALL_WORDS
        due = any(min(count, goal) > each.fused for count, each in zip(counts, beam, strict=True))
        return goal if due else None


def trigger_of(text: str) -> Trigger:
    """The trigger a user names; ConfigError for an unknown one."""
    name, colon, frames = text.partition(":")
    if name == "interval" and frames.isascii() and frames.isdigit() and int(frames) >= 1:
        return Trigger(name, int(frames))
    if name == "interval" or colon or name not in NAMES:
        raise ConfigError(f"fusion is {text!r}, but must be one of {', '.join(NAMES)}, with FRAMES at least 1")
    return Trigger(name)
