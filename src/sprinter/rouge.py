"""ROUGE by Google's `rouge-score`, an extra: word overlap of a text with a reference."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Final

from sprinter.errors import CapabilityError

NAMES: Final = ("rouge1", "rouge2", "rougeL")
MISSING: Final = "ROUGE needs rouge-score: pip install 'sprinter-decoding[bench]'"


def has_rouge() -> bool:
    """Whether `rouge-score` is installed."""
    return find_spec("rouge_score") is not None


def require_rouge() -> None:
    """Raises CapabilityError, saying how to install it, where `rouge-score` is missing."""
    if not has_rouge():
        raise CapabilityError(MISSING)


def overlap(text: str, reference: str) -> dict[str, float]:
    """F1 of `text` with `reference` by name of NAMES, in [0, 1]. Lin 2004, "ROUGE"; L at sentence level.

    Words are lower-cased runs of ASCII letters and digits, unstemmed. A text without any agrees fully with another
    without any, where the package would say 0. Raises CapabilityError without `rouge-score`.
    """
    require_rouge()
    if not _has_words(text) and not _has_words(reference):
        return dict.fromkeys(NAMES, 1.0)
    return {name: float(score.fmeasure) for name, score in _scorer().score(reference, text).items()}


def _has_words(text: str) -> bool:
    return any(character.isascii() and character.isalnum() for character in text)


@lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415 - an extra, and slow to import

    return RougeScorer(list(NAMES))
