"""Put the results of compare_default_pair.py into docs/benchmark.md, between its marks.

python benchmarks/benchmark_tables.py [--results benchmarks/results/default-pair] [--document docs/benchmark.md]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sprinter.bench.tables import (
    excess_interval,
    likelihood_change,
    number,
    paper_claim,
    percent,
    ratio,
    ratio_interval,
    rouges,
)

Cell = Callable[[str, Mapping[str, Any]], str]
TITLES = {
    "encyclopedia-greedy": "Encyclopaedia, greedy",
    "speeches-greedy": "Speeches, greedy",
    "encyclopedia-t1": "Encyclopaedia, temperature 1",
    "speeches-t1": "Speeches, temperature 1",
}
MARKS = ("<!-- measured -->", "<!-- end -->")


def bracketed(interval: str) -> str:
    return f" [{interval.replace(' to ', ', ')}]" if interval else ""


SPEED: Mapping[str, Cell] = {
    "tokens/s": lambda n, m: number(m["tokens_per_s"], 0),
    "against our exact": lambda n, m: ratio(m, "exact") + bracketed(ratio_interval(m, "exact")),
    "the paper's": lambda n, m: paper_claim(n, "speedup"),
    "against the target": lambda n, m: ratio(m, "target"),
    "against assisted": lambda n, m: ratio(m, "hf-assisted"),
    "calls per token": lambda n, m: number(m["target_calls_per_token"], 2),
    "fewer FLOPs than exact, all": lambda n, m: ratio(m, "exact", "fewer_flops"),
    "paper's count": lambda n, m: ratio(m, "exact", "fewer_paper_flops"),
    "the paper's FLOPs": lambda n, m: paper_claim(n, "flops"),
}
LOSS: Mapping[str, Cell] = {
    "delta": lambda n, m: percent(m["delta"]),
    "atypical": lambda n, m: percent(m["atypical"]),
    "atypical, beyond the target's own": lambda n, m: percent(m["excess_atypical"]) + bracketed(excess_interval(m)),
    "the paper's loss": lambda n, m: paper_claim(n, "loss"),
    "log-likelihood, nats": lambda n, m: number(likelihood_change(m), 3),
    "ROUGE-1 / 2 / L to the target's text": lambda n, m: rouges(m["rouge_target"]),
    "ROUGE-1 / 2 / L to the source": lambda n, m: rouges(m["rouge_reference"]),
    "repeated 4-grams": lambda n, m: percent(m["repeat4"]),
}


def lines_of(title: str, summary: Mapping[str, Any]) -> list[str]:
    """One comparison as two Markdown tables, speed and loss."""
    lines = [f"### {title}", ""]
    failed = {name: m["failures"] for name, m in summary["methods"].items() if m["failures"]}
    if failed:
        lines += [f"Failed runs: {', '.join(f'{name} {count}' for name, count in failed.items())}.", ""]
    for columns in (SPEED, LOSS):
        lines += [f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name, method in summary["methods"].items():
            lines.append(f"| {name} | {' | '.join(cell(name, method) for cell in columns.values())} |")
        lines.append("")
    return lines


def inserted(text: str, lines: list[str]) -> str:
    """`text` with `lines` in place of what stood between its marks."""
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return "\n".join([before + MARKS[0], "", *lines, MARKS[1]]) + after


def main() -> None:
    root = Path(__file__).parents[1]
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    reader.add_argument("--results", type=Path, default=root / "benchmarks" / "results" / "default-pair")
    reader.add_argument("--document", type=Path, default=root / "docs" / "benchmark.md")
    given = reader.parse_args()
    lines: list[str] = []
    for folder, title in TITLES.items():
        lines += lines_of(title, json.loads((given.results / folder / "results.json").read_text()))
    given.document.write_text(inserted(given.document.read_text(), lines))


if __name__ == "__main__":
    main()
