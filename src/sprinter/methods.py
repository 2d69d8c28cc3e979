"""The methods: each names its parts and what it has settled for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from sprinter.core.settings import PartSettings
from sprinter.errors import ConfigError
from sprinter.registry import find, names


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

    @property
    def exact(self) -> bool:
        """Whether its texts have the target's law whatever its settings."""
        gate, rule = find("gates", self.gate), find("rules", self.rule)
        return bool(rule.exact) and (not gate.vouches or self.settled.get("threshold") == math.inf)

    def settings(self) -> list[type[PartSettings]]:
        """What its parts can be told."""
        return [part.Settings for part in self.parts()]

    def obeys(self) -> set[str]:
        """Names of the settings that change something."""
        return {f.name for part in self.settings() for f in fields(part)} - set(self.settled)

    def with_parts(self, drafter: str | None, gate: str | None, rule: str | None, name: str, scorer: str) -> Method:
        """This method with other parts; None leaves one as it is. `name`: the method's own; `scorer`: who vouches.

        Raises ConfigError, saying which part lacks what, for parts that cannot work together.
        """
        if drafter is gate is rule is None:
            return self
        if self.drafter is None:
            raise ConfigError(f"method {name!r} drafts nothing: choose parts beside another method")
        chosen, more = _GATES.get(gate or self.gate, (gate or self.gate, {}))
        drafts = drafter or self.drafter
        settled = {**(self.settled if chosen == self.gate else {}), **more}
        if rule == "relaxed" and gate is None:
            chosen = "weighed"
        if find("drafters", drafts).at_once:
            if chosen == "fixed" or settled.get("threshold") == math.inf:
                chosen = "once"  # there is no length to choose
            elif chosen == "scored":
                settled["lookahead"] = 1.0  # what lies past a doubt is drafted already
        made = replace(self, gate=chosen, rule=rule or self.rule, drafter=drafts, settled=settled)
        made = replace(made, dial=self.dial if self.dial in made.obeys() else "")
        _require_fit(made, settled.get("scorer", scorer), (gate or self.gate, name if self.exact else None))
        return made


# Gates by what they ask, where the gate itself asks whatever scorer it is told to.
_GATES: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "confidence": ("scored", {"scorer": "confidence"}),
    "verifier": ("scored", {}),
}


def gate_names() -> tuple[str, ...]:
    """What `with_parts` takes for a gate."""
    return (*_GATES, *names("gates"))


def _require_fit(made: Method, scorer: str, asked: tuple[str, str | None]) -> None:
    """ConfigError naming the first thing that one part needs of another and does not get.

    `asked`: the gate by the name it was asked for, and the method's name where that is exact.
    """
    gate, exact = asked
    drafter, scored = find("drafters", made.drafter or ""), made.gate == "scored"
    by_verifier = scored and scorer not in names("scorers")
    wrong = {
        f"the {scorer} scorer reads a draft's law, and drafter {made.drafter!r} has none: drafter 'either' has the "
        "draft model read what it copies": scored and not drafter.gives_laws,
        f"the verifier reads the pair's draft, and drafter {made.drafter!r} drafts without it: choose gate "
        "'confidence'": by_verifier and drafter.gives_laws and not drafter.by_model,
        "rule 'relaxed' tests by the likelihood that gate 'weighed' notes: choose the two together": (
            (made.rule == "relaxed") != (made.gate == "weighed")
        ),
        "rule 'rollback' takes back what gate 'fallback' let pass: choose the two together": (
            (made.rule == "rollback") != (made.gate == "fallback")
        ),
        f"method {exact!r} is exact, and gate {gate!r} lets tokens pass untested: choose parts beside method "
        "'sprinter'": exact is not None and not made.exact,
    }
    for words, is_wrong in wrong.items():
        if is_wrong:
            raise ConfigError(words)


TARGET = Method("fixed", "exact", None, {"draft_length": 0})
DRAFT = Method("open", "exact")
EXACT = Method("fixed", "exact", dial="draft_length")
LOSSLESS = Method(
    "scored", "exact", settled={"threshold": math.inf, "budget": None, "preset": "default"}, dial="lookahead"
)
SPRINTER = Method("scored", "exact", settled={"lookahead": 1.0}, dial="threshold")
LOOKAHEAD = Method("scored", "exact", settled={"budget": None, "preset": "default"}, dial="threshold")
BILD = Method("fallback", "rollback", dial="fallback")
LLMA = Method("once", "walk", "copies", dial="copy_length")
LLMA_EXACT = Method("fixed", "exact", "either", dial="draft_length")
LLMA_SPRINTER = Method("scored", "exact", "either", {"lookahead": 1.0}, "threshold")
SPECHUB = Method("once", "hub", "hub", dial="depth")
RRS = Method("once", "exact", "repeated", dial="depth")
RRSW = Method("once", "exact", "distinct", dial="depth")
GSD = Method("once", "walk", "graph", dial="graph_nodes")
GSD_RELAXED = Method("weighed", "relaxed", "graph", dial="graph_nodes")
SWIFT = Method("once", "exact", "layers", dial="skip_share")
SWIFT_SPRINTER = Method("scored", "exact", "layer-chain", {"lookahead": 1.0, "scorer": "confidence"}, "threshold")
