"""Splits by entry: which prompts may train the draft, train the verifier, calibrate, or test.

A split by row would leak: rows of one prompt share their text. A split by title is the same on every machine and
in every run, so a draft shipped today is never judged on an entry that trained it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

NUM_BUCKETS: Final = 10
DRAFT_BUCKETS: Final = frozenset(range(6))
VERIFIER_BUCKETS: Final = frozenset({6})
CALIBRATION_BUCKETS: Final = frozenset({7})
TEST_BUCKETS: Final = frozenset({8, 9})

PROMPT_SHARE: Final = 0.3
PROMPT_MAX_WORDS: Final = 60

Row = TypeVar("Row")


def bucket(title: str) -> int:
    """The bucket in [0, 10) of an entry, from the SHA-256 of its title: stable across machines and versions."""
    return int(hashlib.sha256(title.encode()).hexdigest()[:8], 16) % NUM_BUCKETS


def select(rows: Iterable[Row], buckets: Iterable[int], title_of: Callable[[Row], str]) -> list[Row]:
    """The rows whose title falls in `buckets`, in their order."""
    wanted = frozenset(buckets)
    return [row for row in rows if bucket(title_of(row)) in wanted]


def split_by_prompt(prompt_ids: Iterable[str], held_out_share: float = 0.2) -> tuple[frozenset[str], frozenset[str]]:
    """(train ids, held-out ids), disjoint; an id's side depends on the id alone, never on the other ids.

    `held_out_share` in (0, 1) is the expected share held out. Raises ValueError outside that range.
    """
    if not 0.0 < held_out_share < 1.0:
        raise ValueError(f"held_out_share must be between 0 and 1, got {held_out_share}")
    # Salted: otherwise the held-out ids of one bucket would be a slice of that same bucket's hash.
    unique = {i: int(hashlib.sha256(f"held-out:{i}".encode()).hexdigest()[:8], 16) / 2**32 for i in prompt_ids}
    held_out = frozenset(i for i, position in unique.items() if position < held_out_share)
    return frozenset(unique) - held_out, held_out


def prompt_of(text: str) -> tuple[str, str]:
    """(prompt, reference): the first 30% of the words, at most 60 and at least one, and the rest."""
    words = text.split(" ")
    num_words = max(1, min(int(len(words) * PROMPT_SHARE), PROMPT_MAX_WORDS))
    return " ".join(words[:num_words]), " ".join(words[num_words:])
