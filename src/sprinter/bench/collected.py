"""A collection made by `sprinter collect` as rows to replay: acceptance and one gate's score, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sprinter.bench.frontier import Traces, traces_of
from sprinter.errors import DataError
from sprinter.gates.verifier import Verifier
from sprinter.learn.rows import load_rows, read_index
from sprinter.theory.simulator import Rows

# What the command line calls the draft's own scores, and what the frontier does.
_UNTRAINED = {"confidence": "confidence", "certainty": "entropy", "margin": "margin"}

_SURVIVOR = "survival"


def read_collected(
    folder: Path, scorer: str, verifier: Verifier | None, transform: str, survivor: Verifier | None = None
) -> list[Rows]:
    """The rows of a collection under one sampling transform, scored by `verifier` or an untrained scorer.

    `survivor` predicts acceptance where `verifier` predicts something else. Raises DataError for a damaged collection,
    a verifier of another pair, or a transform that was not collected.
    """
    verifiers = {} if verifier is None else {scorer: verifier}
    if survivor is not None:
        verifiers[_SURVIVOR] = survivor
    return replayable(traces_of(load_rows([folder]), verifiers), _UNTRAINED.get(scorer, scorer), transform)


def replayable(collected: Sequence[Traces], gate: str, transform: str) -> list[Rows]:
    """The rows of one transform of a collection as `Rows`, one for each prompt, in the order they were written."""
    chosen = next((traces for traces in collected if traces.name == transform), None)
    if chosen is None:
        names = "; ".join(traces.name for traces in collected)
        raise DataError(
            f"the collection has no rows sampled as {transform!r}, only: {names}; --temperature and its like choose"
        )
    ends = np.flatnonzero(np.diff(chosen.prompt)) + 1
    # Half-precision inputs can carry a label a hair beyond 1.
    accept = np.split(np.clip(chosen.accept, 0.0, 1.0), ends)
    score = np.split(np.clip(chosen.scores[gate], 0.0, 1.0), ends)
    if _SURVIVOR not in chosen.scores:
        return [Rows(a, f) for a, f in zip(accept, score, strict=True)]
    survival = np.split(np.clip(chosen.scores[_SURVIVOR], 0.0, 1.0), ends)
    return [Rows(*columns) for columns in zip(accept, score, survival, strict=True)]


def words_of(folders: Sequence[Path]) -> str:
    """Which rows a figure is of: each collection, how many prompts it has, who wrote its contexts. Raises DataError."""
    told = []
    for folder in folders:
        index = read_index(folder)
        prompts = sum(len(group) for group in index["groups"])
        told.append(f"{folder.name} ({prompts} prompts, contexts of policy {index['settings']['policy']})")
    return ", ".join(told)


def warning_of(folders: Sequence[Path]) -> list[str]:
    """A line where contexts are such as decoding never meets. Raises DataError."""
    alone = [folder.name for folder in folders if read_index(folder)["settings"]["policy"] == "draft"]
    if not alone:
        return []
    return [
        f"{', '.join(alone)}: the draft wrote these contexts alone, and decoding meets others: acceptance and "
        "speed-up may be far from these figures; collect with --policy exact"
    ]
