"""What is to be written, and by which parts: what a certificate made or used with it depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version

from sprinter.build import Pair, settle
from sprinter.certify.certificate import Setting
from sprinter.config import DecodingConfig
from sprinter.core.records import NO_BUDGET, Budget
from sprinter.core.rows import ModelInfo
from sprinter.core.sampling import Sampling
from sprinter.drafters.copies import PROMPT
from sprinter.errors import ConfigError
from sprinter.models.fast.weights import LAYOUT
from sprinter.native.digest import build_digest, source_digest
from sprinter.registry import find, names


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be written, as far as a certificate must know."""

    sampling: Sampling
    num_tokens: int = 0  # most new tokens; 0: as many as the certificate speaks of
    budget: Budget = NO_BUDGET
    chat: bool = False


def setting_of(pair: Pair, config: DecodingConfig, asked: Asked) -> Setting:
    """What a certificate made or used with these settings depends on. Loads the pair."""
    way, told = config.way, config.settled()
    if "threshold" not in way.obeys() or not find("rules", way.rule).exact:
        certified = [name for name in names("methods") if "threshold" in find("methods", name).obeys()]
        raise ConfigError(
            f"method {config.method!r} has nothing to certify: certificates are of thresholds, as in "
            f"{', '.join(certified)}"
        )
    if config.budget is not None:
        raise ConfigError("a budget moves the threshold from token to token, so there is none to certify: leave it out")
    target, draft = pair.target.info, pair.draft.info if way.runs_draft else None
    config = settle(pair, config) if way.runs_draft else config
    return Setting(
        target=target.fingerprint,
        target_backend=target.backend,
        target_weights=target.weights,
        draft="none" if draft is None else draft.fingerprint,
        draft_backend="none" if draft is None else draft.backend,
        draft_weights="none" if draft is None else draft.weights,
        verifier=pair.verifier(told.scorer).fingerprint if told.reads_verifier else "none",
        scorer=told.scorer,
        method=config.method,
        preset=config.preset,
        max_draft=config.draft_cap or 0,
        lookahead=1.0 if config.lookahead is None else config.lookahead,
        sampling=_plain(asked.sampling),
        survival=config.survival,
        drafted=_drafted(config),
        prompts="chat" if asked.chat else "plain",
        max_total_tv=_finite(asked.budget.total_tv),
        max_atypical_tokens=_finite(asked.budget.atypical),
        arithmetic=arithmetic_of(target, draft),
    )


def _drafted(config: DecodingConfig) -> str:
    """Who drafts by which settings, and what tests the rest; "" for the draft model tested by rejection."""
    way, words = config.way, list[str]()
    if (way.drafter, way.rule) == ("model", "exact"):
        return ""
    told = config.of(find("drafters", str(way.drafter)).Settings)
    for name in sorted(find("drafters", str(way.drafter)).Settings.__dataclass_fields__):
        value = getattr(told, name)
        if name == "references":
            value = [word if word == PROMPT else sha256(word.encode()).hexdigest()[:12] for word in value]
        words.append(f"{name} {value}")
    return f"{way.drafter} by {way.rule}: {', '.join(words)}"


def _finite(limit: float) -> float | None:
    return limit if math.isfinite(limit) else None


def _plain(sampling: Sampling) -> dict[str, float | int | list[int]]:
    values = {name: getattr(sampling, name) for name in Sampling.__slots__}
    if sampling.greedy:
        # The rest changes nothing once only the most probable token is left; a penalty or a ban does.
        values |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def arithmetic_of(target: ModelInfo, draft: ModelInfo | None) -> dict[str, str]:
    """Digests and versions by part. Who computes with the compiled pass depends on its sources and build options, not
    on the processor: it gives the same bits on every one that can run it.

    Number formats, the verifier with its calibration and the method's settings are parts of a `Setting` by themselves.
    """
    parts: dict[str, str] = {}
    for info in (target, draft):
        if info is None:
            continue
        if info.backend == "fast-compiled":
            parts |= {"compiled pass": source_digest(), "build options": build_digest(), "weight layout": LAYOUT}
        elif info.backend in ("fast", "hf"):
            parts["torch"] = version("torch")
            if info.backend == "hf":
                parts["transformers"] = version("transformers")
    return parts
