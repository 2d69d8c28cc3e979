"""Labelled rows on disk: one JSON line per drafted token, `{"prompt": id, "accept": a, "score": f}`, in order.

A row may have a `survivor` too, the predicted chance of acceptance where the score predicts something else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sprinter.errors import DataError
from sprinter.theory.simulator import Rows


def read_labelled(file: Path) -> list[Rows]:
    """The rows of each prompt, prompts and rows in the order of the file. Raises DataError naming a bad line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the labelled rows in {file}: {error}") from error
    prompts: dict[str, list[tuple[float, ...]]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            names = ("accept", "score", *(["survivor"] if "survivor" in row else []))
            prompt, pair = str(row["prompt"]), tuple(float(row[name]) for name in names)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{file}, line {number}: a labelled row is a JSON object with prompt, accept and score"
            ) from error
        if not all(0.0 <= value <= 1.0 for value in pair):
            raise DataError(f"{file}, line {number}: accept, score and survivor are chances and must lie in [0, 1]")
        prompts.setdefault(prompt, []).append(pair)
        if len(pair) != len(prompts[prompt][0]):
            raise DataError(f"{file}, line {number}: give survivor in all rows of a prompt or in none")
    if not prompts:
        raise DataError(f"{file} holds no labelled row")
    return [Rows(*np.array(pairs, np.float64).T) for pairs in prompts.values()]


def write_labelled(traces: Sequence[Rows], file: Path) -> None:
    """Write rows so that `read_labelled` gives them back; prompts are numbered."""
    with file.open("w", encoding="utf-8") as stream:
        for prompt, rows in enumerate(traces):
            columns = {"accept": rows.accept.tolist(), "score": rows.score.tolist()}
            if rows.survivor is not None:
                columns["survivor"] = rows.survivor.tolist()
            for values in zip(*columns.values(), strict=True):
                stream.write(json.dumps({"prompt": prompt, **dict(zip(columns, values, strict=True))}) + "\n")
