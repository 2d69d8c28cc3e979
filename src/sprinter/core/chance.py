"""All chance of a text, by place and not by order: neither batches nor schedules can change what is drawn."""

from __future__ import annotations

import hashlib
from typing import Final

from sprinter.core.law import Law, draw

DRAFT, ACCEPT, OWN = range(3)  # purposes: drawing a drafted token, testing one, drawing a token of the target's own

_MASK: Final = (1 << 64) - 1


class Chance:
    """Uniform numbers as a function of (seed, round, node, purpose).

    A counter-based generator: two rounds of the finaliser of SplitMix64 (Steele, Lea & Flood 2014, Fast splittable
    pseudorandom number generators) over a key and the place, so that no number depends on which were asked before.
    """

    __slots__ = ("_key",)

    def __init__(self, seed: int) -> None:
        digest = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
        self._key = int.from_bytes(digest, "little")

    def uniform(self, round_: int, node: int, purpose: int) -> float:
        """The number in [0, 1) of this place."""
        place = (round_ << 26 | node) << 2 | purpose
        return (_mixed(self._key + _mixed(place * 0x9E3779B97F4A7C15 & _MASK) & _MASK) >> 11) * 2.0**-53

    def accept(self, probability: float, round_: int, node: int) -> bool:
        """True with the given probability: the test of drafted `node`."""
        return probability >= 1 or self.uniform(round_, node, ACCEPT) < probability

    def draw(self, law: Law, round_: int, node: int, purpose: int) -> int:
        """A token from `law`."""
        return law.token_at(0) if len(law.probs) == 1 else draw(law, self.uniform(round_, node, purpose))


def _mixed(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31
