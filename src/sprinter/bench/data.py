"""Prompts for a comparison: from JSON lines, text, CSV or Parquet files, Hugging Face data sets, or the own sample."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from sprinter.errors import DataError
from sprinter.learn.prompts import Prompt, json_lines, prompt_from
from sprinter.learn.splits import bucket

SAMPLE: Final = Path(__file__).parent / "assets" / "speeches.jsonl"
_FIELD_LIMIT = 1 << 24  # characters; the csv module's own limit is far below a long article

Row = tuple[str, Mapping[str, Any]]  # (place for messages, columns)


@dataclass(frozen=True, slots=True)
class Preset:
    """A data set of the SPRINTER paper (2502.04557, section 5) on the Hugging Face hub."""

    path: str
    split: str
    column: str


PRESETS: Final[Mapping[str, Preset]] = {
    "wiki-summaries": Preset("jordiclive/wikipedia-summary-dataset", "train", "summary"),
    "lm1b": Preset("billion-word-benchmark/lm1b", "test", "text"),
}


def load_prompts(
    source: str, count: int, seed: int = 0, buckets: Iterable[int] | None = None, column: str = "text"
) -> list[Prompt]:
    """Up to `count` prompts in an order drawn by `seed`, each entry's text cut after its first 30% of words.

    `source`: "sample" (public-domain speeches in this package), a .jsonl, .txt, .csv or .parquet file, a name of
    `PRESETS`, or a Hugging Face data set id (its "train" split; a suffix ":name" chooses another). `column` holds the
    texts of a table. `buckets` keeps the entries of these splits only. Raises DataError.
    """
    if count < 1:
        raise DataError(f"cannot choose {count} prompts: ask for at least 1")
    pool = count * 20 if source in PRESETS or _is_hub_id(source) else None
    found: dict[str, Prompt] = {}
    for place, row in islice(_rows(source, column), pool):
        prompt = prompt_from(row, place)
        found.setdefault(prompt.id, prompt)
    if not found:
        raise DataError(f"{source} holds no text")
    kept = list(found.values())
    if buckets is not None:
        wanted = frozenset(buckets)
        kept = [prompt for prompt in kept if bucket(prompt.title) in wanted]
        if not kept:
            chosen = ", ".join(map(str, sorted(wanted)))
            raise DataError(f"none of the {len(found)} texts of {source} falls in buckets {chosen}: give other buckets")
    order = np.random.default_rng(seed).permutation(len(kept))[:count]
    return [kept[place] for place in order]


def _rows(source: str, column: str) -> Iterator[Row]:
    if source == "sample":
        return json_lines(SAMPLE)
    if source in PRESETS:
        preset = PRESETS[source]
        return _from_hub(preset.path, preset.split, preset.column)
    path = Path(source).expanduser()
    if path.is_file():
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise DataError(f"{path} has an unknown ending: give one of {', '.join(_READERS)}")
        return reader(path, column)
    if _is_hub_id(source):
        name, _, split = source.partition(":")
        return _from_hub(name, split or "train", column)
    known = ", ".join(["sample", *PRESETS])
    raise DataError(f"no data at {source}: give a file, a Hugging Face data set id (owner/name), or one of {known}")


def _is_hub_id(source: str) -> bool:
    return re.fullmatch(r"[\w-]+/[\w.-]+(:\w+)?", source) is not None and not Path(source).exists()


def _from_json_lines(path: Path, _column: str) -> Iterator[Row]:
    return json_lines(path)


def _from_text(path: Path, _column: str) -> Iterator[Row]:
    """Paragraphs: what stands between empty lines."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", _text(path)), 1):
        if paragraph.strip():
            yield f"{path}, paragraph {number}", {"text": " ".join(paragraph.split())}


def _from_csv(path: Path, column: str) -> Iterator[Row]:
    csv.field_size_limit(_FIELD_LIMIT)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream), 1):
                yield _table_row(f"{path}, row {number}", row, column)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _from_parquet(path: Path, column: str) -> Iterator[Row]:
    try:
        from pyarrow import parquet  # noqa: PLC0415 - an extra
    except ImportError:
        raise DataError("a Parquet file needs pyarrow: pip install 'sprinter-decoding[bench]'") from None
    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield _table_row(f"{path}, row {number}", row, column)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _from_hub(name: str, split: str, column: str) -> Iterator[Row]:
    """A data set's rows as they stream in, so that 100 prompts do not cost the whole download."""
    try:
        import datasets  # noqa: PLC0415 - an extra
    except ImportError:
        raise DataError(
            f"the data set {name} needs the datasets library: pip install 'sprinter-decoding[bench]'"
        ) from None
    try:
        for number, row in enumerate(datasets.load_dataset(name, split=split, streaming=True), 1):
            yield _table_row(f"{name}, {split} row {number}", row, column)
    except DataError:
        raise
    except Exception as error:  # the hub client raises many kinds, all meaning that the data cannot be had
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"cannot read the data set {name}, split {split}: {reason}") from error


def _table_row(place: str, row: Mapping[str, Any], column: str) -> Row:
    if column not in row and "prompt" not in row:
        names = ", ".join(str(name) for name in row)
        raise DataError(f"{place} has no column {column!r}: choose one of {names} with --column")
    kept = {key: row[key] for key in ("title", "prompt", "reference") if row.get(key) is not None}
    return place, kept if "prompt" in kept else {**kept, "text": row[column]}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


_READERS: Final[Mapping[str, Callable[[Path, str], Iterator[Row]]]] = {
    ".jsonl": _from_json_lines,
    ".txt": _from_text,
    ".csv": _from_csv,
    ".parquet": _from_parquet,
}
