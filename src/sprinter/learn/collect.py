"""Prompts to labelled rows: batched, resumable, the same rows however often it was interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from sprinter.alone import alone
from sprinter.build import Pair
from sprinter.core.sampling import Sampling
from sprinter.errors import CapabilityError, ConfigError, DataError
from sprinter.gates.features import SCALARS, VECTORS
from sprinter.gates.verifier import Verifier
from sprinter.learn.batched import Batch, BatchModel, OneByOne
from sprinter.learn.labels import LABELS
from sprinter.learn.prompts import Prompt
from sprinter.learn.rows import INDEX_FILE, ROWS_FORMAT, save_shard, shard_name
from sprinter.learn.texts import TextSettings, TextStore, dice_for
from sprinter.learn.walk import Policy, Route, Walk, follow_texts, walk_batch
from sprinter.models.hf import HFModel
from sprinter.provenance import stamp


@dataclass(frozen=True)
class CollectSettings:
    """What decides the rows of a collection; a folder collected with other settings is not gone on with."""

    policy: Policy = "draft"
    tokens: int = 48  # contexts per prompt, at most
    transforms: tuple[Sampling, ...] = (Sampling(),)  # the first drives the contexts, all are judged
    batch: int = 16  # prompts per shard
    seed: int = 0
    threshold: float | None = None  # of policy sprinter; None: the verifier's own

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ConfigError(f"policy is {self.policy!r}, but must be one of {', '.join(get_args(Policy))}")
        if self.tokens < 1 or self.batch < 1 or self.seed < 0 or not self.transforms:
            raise ConfigError("tokens and batch must be at least 1, seed at least 0, and one transform is needed")


@dataclass(frozen=True)
class CollectSource:
    """The models, as batches, with what bounds their texts."""

    draft: Batch
    target: BatchModel
    encode: Callable[[str], list[int]]
    vocab_size: int
    eos_ids: frozenset[int]

    @classmethod
    def of(cls, pair: Pair) -> CollectSource:
        """The models of a pair. CapabilityError if the target does not run in the hf backend."""
        draft, target = pair.draft, pair.target
        if not isinstance(target, HFModel):
            raise CapabilityError("collecting runs batches, which only the hf backend does: give --backend hf")
        limits = pair.limits(with_draft=True)
        drafts = BatchModel(draft) if isinstance(draft, HFModel) else OneByOne(draft)
        return cls(drafts, BatchModel(target), pair.tokenizer.encode, limits.vocab_size, limits.eos_ids)


def collect(
    source: CollectSource,
    prompts: Sequence[Prompt],
    out: Path,
    settings: CollectSettings,
    verifier: Verifier | None = None,
    on_group: Callable[[int, int], None] = lambda done, total: None,
    texts: Path | None = None,
) -> None:
    """Write the labelled rows of `prompts` to `out`, one shard per batch of prompts of similar length.

    Killed at any moment and started again it loses and repeats no prompt: a shard that exists is whole and is
    skipped. `on_group(done, total)` counts prompts. `texts`: where policy exact keeps what the target writes, for use
    with other drafts (default: in `out`). Raises DataError, ConfigError or BackendError.
    """
    if (settings.policy == "sprinter") != (verifier is not None):
        raise ConfigError("policy sprinter, and no other, needs a verifier: give --policy sprinter --verifier DIR")
    encoded = {p.id: _encode(source, p, settings.tokens) for p in prompts}
    # Equal lengths together, so that little is computed on padding; the id makes the order the same everywhere.
    ordered = sorted(prompts, key=lambda p: (len(encoded[p.id]), p.id))
    groups = [ordered[i : i + settings.batch] for i in range(0, len(ordered), settings.batch)]
    with alone(out):
        _open_index(source, groups, out, settings, verifier)
        route = _route(source, settings, verifier)
        store: TextStore | None = None
        if settings.policy == "exact":
            first, seed = settings.transforms[0], text_seed(settings)
            how = TextSettings(first, settings.tokens, seed, source.vocab_size, source.eos_ids)
            store = TextStore(texts or out / "texts", source.target, how)
        done = 0
        for number, group in enumerate(groups):
            file = out / shard_name(number)
            if not file.is_file():
                ids = [encoded[p.id] for p in group]
                walks = _walks(source, [p.id for p in group], ids, route, settings.seed, store)
                drafted = sorted({x.token for w in walks for c in w.contexts for x in c.proposals})
                embeddings = dict(zip(drafted, source.draft.embeddings(drafted), strict=True))
                save_shard(file, walks, [p.title for p in group], embeddings)
            done += len(group)
            on_group(done, len(prompts))


def _walks(
    source: CollectSource,
    prompt_ids: Sequence[str],
    prompts: Sequence[Sequence[int]],
    route: Route,
    seed: int,
    store: TextStore | None,
) -> list[Walk]:
    dice = [dice_for(seed, i) for i in prompt_ids]
    if store is None:
        return walk_batch(source.draft, source.target, prompts, route, dice)
    return follow_texts(source.draft, source.target, prompts, store.texts(prompt_ids, prompts), route, dice)


def text_seed(settings: CollectSettings) -> int:
    """Seed of the target's writing: another stream of chance than the draft's draws, or the two would be tied."""
    return settings.seed + 1_000_003


def _route(source: CollectSource, settings: CollectSettings, verifier: Verifier | None) -> Route:
    threshold = settings.threshold
    if threshold is None:
        threshold = 0.5 if verifier is None else verifier.record.default_threshold
    return Route(
        settings.policy,
        settings.tokens,
        settings.transforms,
        source.vocab_size,
        source.eos_ids,
        verifier,
        threshold,
    )


def _encode(source: CollectSource, prompt: Prompt, num_tokens: int) -> list[int]:
    ids = source.encode(prompt.text)
    window = min(source.draft.info.context_length, source.target.info.context_length)
    if len(ids) + num_tokens > window:
        raise DataError(
            f"the prompt {prompt.title[:60]!r} has {len(ids)} tokens and {num_tokens} are to follow, but the models "
            f"read at most {window}: shorten it or lower --tokens"
        )
    return ids


def _open_index(
    source: CollectSource,
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
        "draft_fingerprint": source.draft.info.fingerprint,
        "target_fingerprint": source.target.info.fingerprint,
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
