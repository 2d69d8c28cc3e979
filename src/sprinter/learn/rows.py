"""Labelled rows on disk: shards of safetensors, and how they read back as one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sprinter.core.rows import FloatArray
from sprinter.errors import DataError
from sprinter.gates.features import SCALARS, VECTORS, assemble
from sprinter.learn.labeller import Context
from sprinter.learn.labels import LABELS

ROWS_FORMAT: Final = 1
INDEX_FILE: Final = "collection.json"


@dataclass(frozen=True)
class Rows:
    """Rows of one or several collections; one row is one drafted token. Prompts, rows and steps keep their order."""

    hidden: NDArray[np.float16]  # [contexts, hidden]
    embedding: NDArray[np.float16]  # [distinct, hidden]
    context: NDArray[np.int64]  # [rows], row of `hidden`
    embedding_of: NDArray[np.int64]  # [rows], row of `embedding`
    token: NDArray[np.int64]  # [rows]
    step: NDArray[np.int64]  # [rows], tokens after the prompt
    prompt: NDArray[np.int64]  # [rows], place in `titles`
    transform: NDArray[np.int64]  # [rows], place in `transforms`
    scalars: NDArray[np.float32]  # [rows, len(SCALARS)]
    labels: NDArray[np.float32]  # [rows, len(LABELS)]
    titles: tuple[str, ...]  # entry of each prompt
    transforms: tuple[Mapping[str, Any], ...]
    draft_fingerprint: str
    target_fingerprint: str

    def __len__(self) -> int:
        return len(self.context)

    def label(self, name: str) -> NDArray[np.float32]:
        """One label of every row, [rows]."""
        return self.labels[:, LABELS.index(name)]

    def scalar(self, name: str) -> NDArray[np.float32]:
        """One scalar feature of every row, [rows]."""
        return self.scalars[:, SCALARS.index(name)]

    def inputs(self, names: Sequence[str], places: NDArray[np.int64]) -> FloatArray:
        """Feature vectors of the rows `places` as a verifier sees them, float32 [len(places), inputs]."""
        hidden = self.hidden[self.context[places]] if "hidden" in names else None
        embedding = self.embedding[self.embedding_of[places]] if "embedding" in names else None
        return assemble(names, hidden, embedding, self.scalars[places])

    def places(self, titles: frozenset[str], transform: int | None = None) -> NDArray[np.int64]:
        """The rows of these entries (and of one transform), in order."""
        wanted = np.array([t in titles for t in self.titles], bool)[self.prompt]  # [rows]
        if transform is not None:
            wanted &= self.transform == transform
        return np.flatnonzero(wanted)


def save_shard(file: Path, texts: Sequence[Sequence[Context]], titles: Sequence[str]) -> None:
    """Write the contexts of some texts beside, then rename: a file that exists is whole. DataError on a full disk."""
    contexts = [(number, context) for number, text in enumerate(texts) for context in text]
    rows = [
        (place, kind, number, context.step, judged)
        for place, (number, context) in enumerate(contexts)
        for kind, judged in enumerate(context.judged)
    ]
    embed = {j.proposal.token: j.proposal.embed for *_, j in rows}
    distinct = sorted(embed)
    hidden = [context.judged[0].proposal.hidden for _, context in contexts]
    width = len(hidden[0]) if hidden and hidden[0] is not None else 0
    arrays: dict[str, NDArray[Any]] = {
        "hidden": np.array(hidden, np.float16).reshape(-1, width),
        "embedding": np.array([given(t) for t in distinct if (given := embed[t])], np.float16).reshape(-1, width),
        "embedding_token": np.array(distinct, np.int32),
        "context": np.array([place for place, *_ in rows], np.int32),
        "token": np.array([j.proposal.token for *_, j in rows], np.int32),
        "step": np.array([step for *_, step, _ in rows], np.int32),
        "prompt": np.array([number for _, _, number, *_ in rows], np.int32),
        "transform": np.array([kind for _, kind, *_ in rows], np.int32),
        "scalars": np.array([j.scalars for *_, j in rows], np.float32).reshape(-1, len(SCALARS)),
        "labels": np.array([j.labels.row() for *_, j in rows], np.float32).reshape(-1, len(LABELS)),
    }
    beside = file.with_suffix(".part")
    try:
        save_file(arrays, str(beside), metadata={"titles": json.dumps(list(titles))})
        beside.replace(file)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise DataError(f"cannot write {file} ({error}): free some space and run the same command again") from error


def load_rows(folders: Sequence[Path]) -> Rows:
    """The rows of finished collections of one pair. DataError when one is missing, damaged, unfinished or of another.

    Prompts of the same entry in several folders stay apart as prompts, but share their title.
    """
    if not folders:
        raise DataError("no collection given: sprinter collect makes one")
    indexes = [read_index(folder) for folder in folders]
    transforms: list[Mapping[str, Any]] = []
    titles: list[str] = []
    parts: list[dict[str, NDArray[Any]]] = []
    sizes = {"hidden": 0, "embedding": 0}
    for folder, index in zip(folders, indexes, strict=True):
        for part in ("draft_fingerprint", "target_fingerprint"):
            if index[part] != indexes[0][part]:
                what = part.split("_")[0]
                raise DataError(f"{folder} was collected with another {what} than {folders[0]}: use one pair")
        kinds = [_place(transforms, t) for t in index["settings"]["transforms"]]
        for number in range(len(index["groups"])):
            arrays, own_titles = _read_shard(folder / shard_name(number))
            arrays["context"] = arrays["context"].astype(np.int64) + sizes["hidden"]
            places = np.searchsorted(arrays.pop("embedding_token"), arrays["token"])
            arrays["embedding_of"] = places.astype(np.int64) + sizes["embedding"]
            arrays["prompt"] = arrays["prompt"].astype(np.int64) + len(titles)
            arrays["transform"] = np.array(kinds, np.int64)[arrays["transform"]]
            titles += own_titles
            for name in sizes:
                sizes[name] += len(arrays[name])
            parts.append(arrays)
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    for name in ("token", "step"):
        joined[name] = joined[name].astype(np.int64)
    draft, target = str(indexes[0]["draft_fingerprint"]), str(indexes[0]["target_fingerprint"])
    return Rows(
        **joined,
        titles=tuple(titles),
        transforms=tuple(transforms),
        draft_fingerprint=draft,
        target_fingerprint=target,
    )


def shard_name(number: int) -> str:
    return f"rows-{number:05d}.safetensors"


def read_index(folder: Path) -> dict[str, Any]:
    """collection.json of a finished collection. Raises DataError."""
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no collection in {folder} ({error.strerror}): sprinter collect makes one") from error
    except ValueError as error:
        raise DataError(f"{folder / INDEX_FILE} is damaged ({error}): collect anew") from error
    known = (list(SCALARS), list(LABELS), list(VECTORS))
    if not isinstance(index, dict) or index.get("format") != ROWS_FORMAT:
        raise DataError(f"{folder / INDEX_FILE} is not of format {ROWS_FORMAT}: collect anew or update sprinter")
    if (index.get("scalars"), index.get("labels"), index.get("vectors")) != known:
        raise DataError(f"{folder} was collected with other features or labels: collect anew with this version")
    missing = [n for n in range(len(index["groups"])) if not (folder / shard_name(n)).is_file()]
    if missing:
        raise DataError(
            f"{folder} is unfinished: {len(missing)} of {len(index['groups'])} shards are missing; run the same "
            "sprinter collect command again, it goes on where it stopped"
        )
    return index


def _place(known: list[Mapping[str, Any]], transform: Mapping[str, Any]) -> int:
    if transform not in known:
        known.append(transform)
    return known.index(transform)


def _read_shard(file: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    try:
        with safe_open(str(file), framework="np") as stream:
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
            return arrays, json.loads(stream.metadata()["titles"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}): delete it and run sprinter collect again") from error
