"""Big Little Decoder's correction: keep drafted tokens the target finds likely enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from sprinter.core.chance import OWN
from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Needs
from sprinter.core.sampling import Sampling
from sprinter.core.settings import setting
from sprinter.core.text import Text
from sprinter.core.tree import Verdict
from sprinter.errors import ConfigError
from sprinter.gates.fallback import FallbackSettings, is_doubted

_PLAIN = Sampling()


@dataclass(frozen=True)
class RollbackSettings(FallbackSettings):
    """How unlikely a token must be for the target to take it back."""

    rollback: float | None = setting(None, "Method bild: roll back a token of fewer nats than this (default 3).")


class RollbackRule:
    """Cut at the first drafted token with -log p(x) > `rollback`; the target writes the token that caused the call.

    Kim et al. 2023, arXiv:2302.07863, section 3.3, with the cross entropy to the draft's token as the distance. The
    laws it judges by are the target's at temperature 1, whatever the text is sampled with.
    """

    needs = Needs(full_laws=True)
    exact = False
    lossy_tests = True
    Settings = RollbackSettings

    @classmethod
    def build(cls, settings: RollbackSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls(settings.least_peak, 3.0 if settings.rollback is None else settings.rollback)

    def __init__(self, fallback: float, rollback: float) -> None:
        if not rollback > 0:
            raise ConfigError(f"the rollback threshold is {rollback}, but must be above 0 nats")
        self.fallback = fallback
        self.least_prob = math.exp(-rollback)

    def judge(self, text: Text, reading: Reading) -> Verdict:
        """See `Rule.judge`."""
        tree = text.tree
        doubted = is_doubted(tree, self.fallback)
        kept = len(tree) - doubted
        for place, token in enumerate(tree.tokens[:kept]):
            if _PLAIN.law(reading.logits(place), (), reading.ids).prob(token) < self.least_prob:
                return self._write(text, reading, place, rejected=True)
        return self._write(text, reading, kept, rejected=doubted)

    def _write(self, text: Text, reading: Reading, place: int, rejected: bool) -> Verdict:
        token = text.chance.draw(reading.law(place), text.round, place, OWN)
        return Verdict(range(place), token, "resampled" if rejected else "bonus")
