"""The methods: each names its parts and what it has settled for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sprinter.core.settings import PartSettings
from sprinter.registry import find


@dataclass(frozen=True)
class Method:
    """A way of decoding by the names of its parts; `settled` are settings it leaves nobody to choose."""

    gate: str
    rule: str
    drafter: str | None = "model"
    settled: Mapping[str, Any] = field(default_factory=dict)
    dial: str = ""  # the setting a bare value stands for where methods are compared, as in exact:4; "": none

    def parts(self) -> list[Any]:
        """The classes of its parts."""
        named = [("gates", self.gate), ("rules", self.rule), ("drafters", self.drafter)]
        return [find(kind, name) for kind, name in named if name is not None]

    @property
    def runs_draft(self) -> bool:
        """Whether it has the pair's draft model compute something."""
        return self.drafter is not None and bool(find("drafters", self.drafter).by_model)

    def settings(self) -> list[type[PartSettings]]:
        """What its parts can be told."""
        return [part.Settings for part in self.parts()]

    def obeys(self) -> set[str]:
        """Names of the settings that change something."""
        return {f.name for part in self.settings() for f in fields(part)} - set(self.settled)


TARGET = Method("fixed", "exact", None, {"draft_length": 0})
DRAFT = Method("open", "vouched")
EXACT = Method("fixed", "exact", dial="draft_length")
LOSSLESS = Method(
    "scored", "exact", settled={"threshold": math.inf, "budget": None, "preset": "default"}, dial="lookahead"
)
SPRINTER = Method("scored", "vouched", settled={"lookahead": 1.0}, dial="threshold")
LOOKAHEAD = Method("scored", "vouched", settled={"budget": None, "preset": "default"}, dial="threshold")
BILD = Method("fallback", "rollback", dial="fallback")
LLMA = Method("once", "walk", "copies", dial="copy_length")
LLMA_EXACT = Method("fixed", "exact", "either", dial="draft_length")
LLMA_SPRINTER = Method("scored", "vouched", "either", {"lookahead": 1.0}, "threshold")
SPECHUB = Method("once", "hub", "hub", dial="depth")
RRS = Method("once", "siblings", "repeated", dial="depth")
RRSW = Method("once", "siblings", "distinct", dial="depth")
SWIFT = Method("once", "siblings", "layers", dial="skip_share")
SWIFT_SPRINTER = Method("scored", "vouched", "layer-chain", {"lookahead": 1.0, "scorer": "confidence"}, "threshold")
