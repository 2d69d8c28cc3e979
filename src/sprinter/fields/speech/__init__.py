"""Delayed fusion: a language model helps a recogniser's beam search, late and seldom (arXiv 2501.09258)."""

from sprinter.fields.speech.fuse import Search
from sprinter.fields.speech.hypotheses import Hypothesis, Weights
from sprinter.fields.speech.scorer import WordScorer
from sprinter.fields.speech.triggers import Trigger, trigger_of

__all__ = ["Hypothesis", "Search", "Trigger", "Weights", "WordScorer", "trigger_of"]
