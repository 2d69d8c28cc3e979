"""Sample texts for the report: each token coloured by where it came from, its score on hover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from sprinter.bench.charts import escape
from sprinter.bench.journal import Record, Results
from sprinter.bench.methods import ORIGIN_LETTERS
from sprinter.core.records import MEANINGS, PAINT

ORIGINS: Final[Mapping[str, str]] = {letter: MEANINGS[origin] for origin, letter in ORIGIN_LETTERS.items()}


def sample_texts(results: Results) -> str:
    """The first prompts with every method's text; empty where none were kept token by token."""
    parts = []
    for prompt in results.run["prompts"]:
        rows = [r for r in results.records if r["prompt"] == prompt["id"] and "pieces" in r]
        if not rows:
            continue
        place = {name: number for number, name in enumerate(results.methods)}
        rows.sort(key=lambda row: place.get(row["method"], len(place)))
        entries = "".join(_entry(row) for row in _distinct(rows))
        parts.append(f'<div class="sample"><p class="prompt">{escape(prompt["text"])} …</p><dl>{entries}</dl></div>')
    return "".join(parts)


def _distinct(rows: Sequence[Record]) -> list[tuple[str, Record]]:
    """(names, record): plain texts that are the same stand once, under all their methods' names."""
    found: list[tuple[str, Record]] = []
    for row in rows:
        for number, (names, other) in enumerate(found):
            if row["ids"] == other["ids"] and set(row["origins"]) <= set("g") >= set(other["origins"]):
                found[number] = (f"{names}, {row['method']}", other)
                break
        else:
            found.append((row["method"], row))
    return found


def _entry(named: tuple[str, Record]) -> str:
    names, row = named
    calls = row["counters"]["target_calls"]
    told = f"{len(row['ids'])} tokens, {calls} target calls, {row['seconds']:.2f} s"
    return f"<dt>{escape(names)}<small>{told}</small></dt><dd>{_coloured(row)}</dd>"


def _coloured(row: Record) -> str:
    spans = []
    for piece, origin, score in zip_longest(row["pieces"], row["origins"], row["scores"]):
        if not piece:
            continue
        if origin is None or row["origins"].strip("g") == "":
            spans.append(escape(piece))
            continue
        told = ORIGINS[origin] + ("" if score is None else f", score {score:.2f}")
        spans.append(f'<span class="tok {origin}" title="{escape(told)}">{escape(piece)}</span>')
    return "".join(spans)


def origin_key(letters: Sequence[str]) -> str:
    """A legend of the colours that occur."""
    items = [
        f'<i><span class="tok {o}">&nbsp;ab&nbsp;</span> {text}</i>' for o, text in ORIGINS.items() if o in letters
    ]
    return f'<p class="key">{"".join(items)}</p>'


def origin_style() -> str:
    """The colours, the same as everywhere else."""
    plain = "#e5e7eb"  # where nothing stands beside, a token without a colour would not look like one
    paints = {letter: PAINT[origin] for origin, letter in ORIGIN_LETTERS.items()}
    rules = (f".tok.{letter}{{background:{plain if p == 'transparent' else p}}}" for letter, p in paints.items())
    return "".join(rules)


def sample_letters(results: Results) -> set[str]:
    """Origins that occur in the sample texts."""
    return {letter for record in results.records if "pieces" in record for letter in record["origins"]}


def facts_line(facts: Mapping[str, Any]) -> str:
    """What a method ran on, as one line."""
    notes = [*facts.get("runs_on", ()), *facts.get("notes", ()), *facts.get("statements", ()), facts.get("caveat")]
    return "; ".join(str(note) for note in notes if note)
