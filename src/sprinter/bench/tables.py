"""A comparison as text: the table on the terminal, and one row per run for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any, Final

from sprinter.bench.journal import Results
from sprinter.rouge import NAMES

Cell = Callable[[Mapping[str, Any]], str]
NOTHING: Final = "-"
# SPRINTER against exact speculative decoding as its paper states it, on its own pairs (2502.04557, abstract).
PAPER: Final[Mapping[str, str]] = {"speedup": "1.64x to 1.7x", "flops": "8.3x", "loss": "not stated"}
_COMPARABLE: Final = ("sprinter", "lookahead", "paper")


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    """A number for reading; a dash where there is none."""
    if value is None:
        return NOTHING
    # Rounding must not leave a minus sign before a zero.
    rounded = round(value, digits)
    return f"{rounded + 0.0 if rounded else 0.0:.{digits}f}{unit}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return NOTHING if value is None else number(100 * value, digits, "%")


def ratio(summary: Mapping[str, Any], baseline: str, key: str = "speedup") -> str:
    """`1.85x`: a ratio to a baseline."""
    found = summary["against"].get(baseline)
    return NOTHING if found is None else number(found[key]["value"], 2, "x")


def ratio_interval(summary: Mapping[str, Any], baseline: str, key: str = "speedup") -> str:
    """`1.80 to 1.91`: the 95% interval of `ratio`."""
    found = summary["against"].get(baseline)
    return "" if found is None or found[key]["low"] is None else _between(number, found[key]["low"], found[key]["high"])


def excess_interval(summary: Mapping[str, Any]) -> str:
    """`-0.4% to 1.2%`: the 95% interval of the excess of atypical tokens; empty where it is not known."""
    found = summary.get("excess_interval")
    return "" if found is None or found[0] is None else _between(percent, *found)


def _between(told: Callable[[float], str], low: float, high: float) -> str:
    return f"{told(low)} to {told(high)}"


def rouges(found: Mapping[str, float]) -> str:
    """`0.71 / 0.55 / 0.69`: ROUGE-1, 2 and L."""
    return " / ".join(number(found.get(name), 2) for name in NAMES) if found else NOTHING


def paper_claim(method: str, key: str) -> str:
    """What the paper states for a method that answers to it, empty for any other. `key` of PAPER."""
    return PAPER[key] if method.partition(":")[0] in _COMPARABLE else ""


def flops(value: float | None) -> str:
    """Billions of floating-point operations."""
    return NOTHING if value is None else number(value / 1e9, 3)


def likelihood_change(summary: Mapping[str, Any]) -> float | None:
    """Mean log-likelihood under the target minus that of the target's own texts, nats per token."""
    found = summary["verdicts"].get("log_likelihood")
    return None if found is None else float(found["difference"]["value"])


COLUMNS: Final[Mapping[str, Cell]] = {
    "tok/s": lambda s: number(s["tokens_per_s"], 1),
    "vs target": lambda s: ratio(s, "target"),
    "vs exact": lambda s: ratio(s, "exact"),
    "calls/token": lambda s: number(s["target_calls_per_token"], 3),
    "delta": lambda s: percent(s["delta"], 2),
    "atypical": lambda s: percent(s["atypical"], 2),
    "beyond own": lambda s: percent(s["excess_atypical"], 2),
    "loglik": lambda s: number(likelihood_change(s), 3),
    "ROUGE-1/2/L to target": lambda s: rouges(s["rouge_target"]),
    "GFLOP/token": lambda s: flops(s["flops_per_token"]),
    "failed": lambda s: str(s["failures"]),
}


def terminal_table(summary: Mapping[str, Any]) -> str:
    """The headline as aligned columns."""
    rows = [["method", *COLUMNS]]
    rows += [[name, *(cell(method) for cell in COLUMNS.values())] for name, method in summary["methods"].items()]
    return aligned(rows)


def compare_table(compared: Mapping[str, Any]) -> str:
    """Two comparisons side by side as aligned columns, with a line on what else differs."""
    rows = [["method", "prompts", "first tok/s", "second tok/s", "ratio", "95%", "same text", "delta change"]]
    for name, row in compared["methods"].items():
        speed, change = row["speed_ratio"], row["changes"].get("delta")
        rows.append(
            [
                name,
                str(row["prompts"]),
                number(row["first_tokens_per_s"], 1),
                number(row["second_tokens_per_s"], 1),
                number(speed["value"], 2, "x"),
                f"{number(speed['low'])} to {number(speed['high'])}",
                percent(row["same_output"], 0),
                percent(change["value"], 2) if change else NOTHING,
            ]
        )
    note = f"\nNot the same in both: {', '.join(compared['differs'])}." if compared["differs"] else ""
    return aligned(rows) + note


def aligned(rows: list[list[str]]) -> str:
    """Columns padded to their widest cell, the first to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = row
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


_CSV_KEYS: Final = (
    *("seconds", "delta", "atypical", "own_atypical", "mismatch", "log_likelihood", "tested", "peak_mib", "rise_mib"),
    *("prompt_tokens", "text", "error"),
)


def records_csv(results: Results) -> str:
    """One row per method and prompt, failures included; every text between quotes, none of them a formula."""
    buffer = io.StringIO()
    counters = ("target_calls", "draft_steps", "target_tokens", "draft_tokens", "target_s", "draft_s", "gate_s")
    names = ["place", "prompt", "method", "turn", "tokens", "first_token_ms", *counters, *_CSV_KEYS]
    # Quoted always: a bare carriage return would split a row.
    writer = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    for record in results.records:
        row = {**record, **record.get("counters", {})}
        row["tokens"] = len(record.get("ids", ()))
        row["first_token_ms"] = record["times_ms"][0] if record.get("times_ms") else None
        writer.writerow({name: _harmless(row.get(name)) for name in names})
    return buffer.getvalue()


def _harmless(value: Any) -> Any:
    """A cell's value; a text that begins like a formula would run in a spreadsheet, a NUL would end its reading."""
    if not isinstance(value, str):
        return value
    text = value.replace("\0", "\ufffd")
    return (
        "'" + text
        if text.lstrip(" \ufeff").startswith(
            ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
        )
        else text
    )
