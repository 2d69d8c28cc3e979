"""The gate of every method with a scorer, from its settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sprinter.core.protocols import Gate, Kit, Scorer
from sprinter.core.rows import Needs
from sprinter.core.settings import choice, setting
from sprinter.errors import ConfigError
from sprinter.gates.base import CapSettings
from sprinter.gates.budget import BudgetGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.gates.verifier_file import OUTPUTS
from sprinter.registry import names

PAPER_THRESHOLD = 0.5
PRESETS = ("default", "paper")


@dataclass(frozen=True)
class ScoredSettings(CapSettings):
    """What vouches, from which score on, and how far a draft goes past doubts."""

    preset: str = setting("default", "'paper': threshold 0.5, at most 20 drafted tokens, the last one tested.")
    scorer: str = setting("accept", "What vouches: the verifier's accept or typical output, or confidence.")
    threshold: float | None = setting(None, "Vouch for a token whose score reaches this; default: the verifier's own.")
    lookahead: float | None = setting(
        None, "Draft past doubtful tokens while the chance all survive exceeds this; default: by the cost model."
    )
    budget: float | None = setting(None, "Vouch while the predicted risk stays within this many tokens per 100.")

    def check(self) -> None:
        """See `PartSettings.check`."""
        super().check()
        choice("preset", self.preset, PRESETS)
        choice("scorer", self.scorer, (*OUTPUTS, *names("scorers")))
        if self.threshold is not None and math.isnan(self.threshold):
            raise ConfigError("threshold is not a number: give one between 0 (fast) and 1 (safe)")
        if self.lookahead is not None and not 0 <= self.lookahead <= 1:
            raise ConfigError(
                f"lookahead is {self.lookahead}, but must be between 0 and 1 (1 stops at the first doubt)"
            )
        if self.budget is not None and not 0 <= self.budget <= 100:
            raise ConfigError(f"budget is {self.budget}, but must be between 0 (test all) and 100 (vouch for all)")
        if self.budget is not None and (self.threshold not in (None, math.inf) or self.preset == "paper"):
            raise ConfigError("a budget takes the threshold's place: give one of them, and not preset 'paper'")

    @property
    def reads_verifier(self) -> bool:
        """Whether the scorer is a trained one."""
        return self.scorer in OUTPUTS


class ScoredGate:
    """Builds a `ThresholdGate`, or a `BudgetGate` where a budget is given."""

    Settings = ScoredSettings
    needs = Needs(full_laws=True)  # and what the scorer reads
    vouches = True  # unless the threshold is infinite

    @classmethod
    def build(cls, settings: ScoredSettings, kit: Kit) -> Gate:
        """See `protocols.Kit`."""
        scorer, usual = kit.scorer(settings.scorer)
        if settings.budget is not None:
            return BudgetGate(scorer, settings.budget, settings.draft_cap)
        if settings.preset == "paper":
            usual = PAPER_THRESHOLD
        lookahead = 1.0 if settings.lookahead is None else settings.lookahead
        return ThresholdGate(
            scorer,
            threshold=usual if settings.threshold is None else settings.threshold,
            lookahead=lookahead,
            max_draft=settings.draft_cap,
            test_last=settings.preset == "paper",
            survivor=_survivor(settings.scorer, lookahead, kit),
        )


def _survivor(scorer: str, lookahead: float, kit: Kit) -> Scorer | None:
    """Who says whether an unvouched token will pass, where the scorer predicts something else."""
    if lookahead == 1 or scorer not in ("typical", "overlap"):
        return None
    try:
        return kit.scorer("accept")[0]
    except ConfigError:
        return None  # this verifier predicts nothing of acceptance: its own word has to do
