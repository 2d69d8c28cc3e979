"""Parts by name: ours, and those of other packages by entry points; a part is imported when it is first used.

Another package adds a part with an entry point of the group `sprinter.KIND`:

    [project.entry-points."sprinter.drafters"]
    copies = "their_package.copies:CopyDrafter"
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module, metadata
from typing import Any, Final

from sprinter.errors import ConfigError

_OURS: Final[dict[str, dict[str, str]]] = {
    "methods": {
        "target": "sprinter.methods:TARGET",
        "draft": "sprinter.methods:DRAFT",
        "exact": "sprinter.methods:EXACT",
        "lossless": "sprinter.methods:LOSSLESS",
        "sprinter": "sprinter.methods:SPRINTER",
        "lookahead": "sprinter.methods:LOOKAHEAD",
        "bild": "sprinter.methods:BILD",
        "llma": "sprinter.methods:LLMA",
        "llma+exact": "sprinter.methods:LLMA_EXACT",
        "llma+sprinter": "sprinter.methods:LLMA_SPRINTER",
        "spechub": "sprinter.methods:SPECHUB",
        "rrs": "sprinter.methods:RRS",
        "rrsw": "sprinter.methods:RRSW",
        "gsd": "sprinter.methods:GSD",
        "gsd-relaxed": "sprinter.methods:GSD_RELAXED",
        "swift": "sprinter.methods:SWIFT",
        "swift+sprinter": "sprinter.methods:SWIFT_SPRINTER",
    },
    "models": {
        "fast": "sprinter.models.fast.model:FastModel",
        "hf": "sprinter.models.hf:HFModel",
    },
    "drafters": {
        "model": "sprinter.drafters.model:ModelDrafter",
        "copies": "sprinter.drafters.copies:CopyDrafter",
        "either": "sprinter.drafters.either:EitherDrafter",
        "hub": "sprinter.drafters.hub:HubDrafter",
        "repeated": "sprinter.drafters.hub:RepeatedDrafter",
        "distinct": "sprinter.drafters.hub:DistinctDrafter",
        "graph": "sprinter.drafters.graph:GraphDrafter",
        "siblings": "sprinter.drafters.siblings:SiblingDrafter",
        "layers": "sprinter.drafters.layers:LayerDrafter",
        "layer-chain": "sprinter.drafters.layers:LayerChainDrafter",
    },
    "gates": {
        "fixed": "sprinter.gates.fixed:FixedGate",
        "open": "sprinter.gates.fixed:OpenGate",
        "once": "sprinter.gates.fixed:OnceGate",
        "weighed": "sprinter.gates.fixed:WeighedGate",
        "scored": "sprinter.gates.scored:ScoredGate",
        "fallback": "sprinter.gates.fallback:FallbackGate",
    },
    "scorers": {
        "confidence": "sprinter.gates.confidence:Confidence",
        "certainty": "sprinter.gates.confidence:Certainty",
        "margin": "sprinter.gates.confidence:Margin",
    },
    "rules": {
        "exact": "sprinter.rules.exact:ExactRule",
        "walk": "sprinter.rules.walk:WalkRule",
        "hub": "sprinter.rules.hub:HubRule",
        "relaxed": "sprinter.rules.relaxed:RelaxedRule",
        "rollback": "sprinter.rules.rollback:RollbackRule",
    },
    "observers": {"audit": "sprinter.observers.audit:Audit"},
}
KINDS: Final = tuple(_OURS)


def names(kind: str) -> tuple[str, ...]:
    """The names of all parts of a kind, ours first."""
    return tuple(_places(kind))


@lru_cache(maxsize=256)
def find(kind: str, name: str) -> Any:
    """The part `name` of a kind. Raises ConfigError where there is none or it cannot be imported."""
    places = _places(kind)
    if name not in places:
        raise ConfigError(f"unknown {kind.removesuffix('s')} {name!r}: choose from {', '.join(places)}")
    module, _, attribute = places[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the {kind.removesuffix('s')} {name!r} cannot be loaded ({error}): reinstall it") from error


@lru_cache(maxsize=len(KINDS))
def _places(kind: str) -> dict[str, str]:
    added = {entry.name: entry.value for entry in metadata.entry_points(group=f"sprinter.{kind}")}
    return {**added, **_OURS[kind]}
