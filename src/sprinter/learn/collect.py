"""Prompts to labelled rows: batched, resumable, the same rows however often it was interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sprinter.alone import alone
from sprinter.build import Pair, build_recipe
from sprinter.config import DecodingConfig
from sprinter.core.chance import Chance
from sprinter.core.protocols import Gate, Recipe, Rule
from sprinter.core.rows import Needs
from sprinter.core.sampling import Sampling
from sprinter.core.text import Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.errors import CapabilityError, ConfigError, DataError
from sprinter.gates.features import SCALARS, VECTORS
from sprinter.gates.fixed import FixedGate, OpenGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.gates.verifier import Verifier
from sprinter.learn.labeller import Context, HardRule, Labeller
from sprinter.learn.labels import LABELS
from sprinter.learn.prompts import Prompt
from sprinter.learn.rows import INDEX_FILE, ROWS_FORMAT, save_shard, shard_name
from sprinter.provenance import stamp
from sprinter.registry import find, names
from sprinter.rules.exact import ExactRule

_DRAFT_LENGTH: Final = 4  # of policy exact; a draft that stands whole is gone on with, so the rows do not depend on it
_SEED_STEP: Final = 1 << 64  # keeps the chance of unlike prompts apart: their ids have 16 hex digits
_NEEDS: Final = Needs(full_laws=True, hidden=True, embedding=True)  # of the draft


def policies() -> tuple[str, ...]:
    """Who may write on: every method that drafts, and the paper's own way."""
    return (*(name for name in names("methods") if find("methods", name).drafter == "model"), "paper")


@dataclass(frozen=True)
class CollectSettings:
    """What decides the rows of a collection; a folder collected with other settings is not gone on with.

    draft      the draft writes alone, whatever the target thinks
    exact      exact speculative decoding, whose contexts are the target's own
    sprinter   SPRINTER with the verifier: what it meets in use; so with every other method by its name
    paper      after a token with q <= p the draft's, after any other the target's (the paper's code)
    """

    policy: str = "exact"
    tokens: int = 48  # contexts per prompt, at most
    transforms: tuple[Sampling, ...] = (Sampling(),)  # the first drives the contexts, all are judged
    batch: int = 16  # prompts per shard, written in company
    seed: int = 0
    threshold: float | None = None  # of policy sprinter; None: the verifier's own

    def __post_init__(self) -> None:
        if self.policy not in policies():
            raise ConfigError(f"policy is {self.policy!r}, but must be one of {', '.join(policies())}")
        if self.tokens < 1 or self.batch < 1 or self.seed < 0 or not self.transforms:
            raise ConfigError("tokens and batch must be at least 1, seed at least 0, and one transform is needed")


def collect(
    pair: Pair,
    prompts: Sequence[Prompt],
    out: Path,
    settings: CollectSettings,
    verifier: Verifier | None = None,
    on_group: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write labelled rows of every prompt into `out`, or those an interrupted run has left.

    `verifier`: of policy sprinter; `on_group(done, total)` counts prompts. Raises ConfigError, CapabilityError,
    BackendError or DataError.
    """
    if (settings.policy == "sprinter") != (verifier is not None):
        raise ConfigError("policy sprinter, and no other, needs a verifier: give --policy sprinter --verifier DIR")
    if missing := pair.draft.gives.missing(_NEEDS):
        raise CapabilityError(f"rows need {', '.join(missing)} of the draft, which its backend does not give")
    encoded = {p.id: _encode(pair, p, settings.tokens) for p in prompts}
    # Equal lengths together, so that little is computed on padding; the id makes the order the same everywhere.
    ordered = sorted(prompts, key=lambda p: (len(encoded[p.id]), p.id))
    groups = [ordered[i : i + settings.batch] for i in range(0, len(ordered), settings.batch)]
    with alone(out):
        _open_index(pair, groups, out, settings, verifier)
        writer, done = _Writer(pair, settings, verifier), 0
        for number, group in enumerate(groups):
            file = out / shard_name(number)
            if not file.is_file():
                save_shard(file, writer.write({p.id: encoded[p.id] for p in group}), [p.title for p in group])
            done += len(group)
            on_group(done, len(prompts))


class _Writer:
    """Writes on from prompts in company, with somebody who labels."""

    def __init__(self, pair: Pair, settings: CollectSettings, verifier: Verifier | None) -> None:
        self._settings = settings
        self._engine, self._limits = Engine(pair.target), pair.limits(with_draft=True)
        self._recipe = _recipe(pair, settings, verifier)

    def write(self, prompts: Mapping[str, Sequence[int]]) -> list[list[Context]]:
        """The contexts of each prompt (token ids by prompt id), in order."""
        texts, labellers, settings = [], [], self._settings
        for name, ids in prompts.items():
            seed = settings.seed * _SEED_STEP + int(name, 16)
            labellers.append(Labeller(settings.transforms[1:], seed, goes_on=settings.policy == "exact"))
            text = Text(ids, settings.tokens, settings.transforms[0], Chance(seed), self._limits)
            texts.append(self._engine.begin(text, self._recipe, [labellers[-1]]))
        self._engine.run(texts)
        self._engine.close_audit(texts)
        for text in texts:
            if text.error is not None:
                raise text.error
        return [labeller.contexts for labeller in labellers]


def _recipe(pair: Pair, settings: CollectSettings, verifier: Verifier | None) -> Recipe:
    drafter, policy = ModelDrafter(pair.draft), settings.policy
    if verifier is not None:
        usual = verifier.record.default_threshold
        threshold = usual if settings.threshold is None else settings.threshold
        return Recipe(ThresholdGate(verifier, threshold), ExactRule(), drafter, policy)
    fixed: dict[str, tuple[Gate, Rule]] = {
        "draft": (OpenGate(), ExactRule()),
        "exact": (FixedGate(_DRAFT_LENGTH), ExactRule(bonus=False)),
        "paper": (FixedGate(1), HardRule()),
    }
    if policy in fixed:
        return Recipe(*fixed[policy], drafter, policy)
    return build_recipe(pair, DecodingConfig(method=policy, threshold=settings.threshold))


def _encode(pair: Pair, prompt: Prompt, num_tokens: int) -> list[int]:
    ids = pair.tokenizer.encode(prompt.text)
    window = min(pair.draft.info.context_length, pair.target.info.context_length)
    if len(ids) + num_tokens > window:
        raise DataError(
            f"the prompt {prompt.title[:60]!r} has {len(ids)} tokens and {num_tokens} are to follow, but the models "
            f"read at most {window}: shorten it or lower --tokens"
        )
    return ids


def _open_index(
    pair: Pair,
    groups: Sequence[Sequence[Prompt]],
    out: Path,
    settings: CollectSettings,
    verifier: Verifier | None,
) -> None:
    """Write collection.json, or check that the one there describes the same collection."""
    described = describe(settings)
    described["verifier"] = None if verifier is None else verifier.fingerprint
    names = [[p.id for p in group] for group in groups]
    index = {
        "format": ROWS_FORMAT,
        "settings": described,
        "draft_fingerprint": pair.draft.info.fingerprint,
        "target_fingerprint": pair.target.info.fingerprint,
        "prompts_sha256": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        "vectors": list(VECTORS),
        "scalars": list(SCALARS),
        "labels": list(LABELS),
        "groups": names,
    }
    file = out / INDEX_FILE
    if file.is_file():
        _require_same_index(file, index)
        return
    beside = file.with_suffix(".part")
    try:
        out.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({**index, "record": stamp(described, settings.seed)}, indent=1) + "\n")
        beside.replace(file)
    except OSError as error:
        raise DataError(f"cannot write {file} ({error.strerror}): choose another --out or free some space") from error


def describe(settings: CollectSettings) -> dict[str, Any]:
    """Settings as JSON types."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return plain


def _require_same_index(file: Path, index: Mapping[str, Any]) -> None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        old, new = dict(found["settings"]), dict(index["settings"])
        marks = ("format", "draft_fingerprint", "target_fingerprint", "prompts_sha256", "vectors", "scalars", "labels")
        old.update({m: found[m] for m in marks})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}): delete the folder and collect anew") from error
    new.update({m: index[m] for m in marks})
    for name, value in new.items():
        if old.get(name) != value:
            raise DataError(
                f"{file.parent} holds a collection with another {name}: go on with the settings it was begun with, "
                "or choose another --out"
            )
