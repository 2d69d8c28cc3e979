"""Drafter x gate x rule: tokens per target call, speed beside the target alone, delta and atypical tokens.

    python benchmarks/combinations.py --out FILE [--temperature 0.7] [--tokens 64] [--rounds 2]

All combinations write the same prompts in turn, openings of prose and requests to repeat a passage, with seeds of their
own for each prompt. The audit is closed, so every token counts. Speed is tokens/s with the prompt's reading, over the
target alone in the same turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sprinter import Sprinter
from sprinter.bench.probe_prompts import PROBE_PROMPTS
from sprinter.core.records import Generation
from sprinter.provenance import stamp

PASSAGE = (
    "A lighthouse keeper trims the wick at dusk, winds the clockwork that turns the lens, and writes the weather into "
    "the log. At midnight the next keeper takes the watch. In fog a bell is struck once every fifteen seconds."
)
PROMPTS: tuple[tuple[str, bool], ...] = (
    *((prompt, False) for prompt in PROBE_PROMPTS[:8]),
    *((f"{ask}\n\n{PASSAGE}", True) for ask in ("Repeat this text word for word:", "Copy the following text exactly:")),
)
WAYS: dict[str, dict[str, Any]] = {
    "target": {"method": "target"},
    "model, fixed, exact": {"method": "exact", "draft_length": 2},
    "model, confidence, exact": {"gate": "confidence", "threshold": 0.7},
    "model, verifier, exact": {},
    "copies, fixed, walk": {"method": "llma"},
    "either, fixed, exact": {"method": "llma+exact", "draft_length": 2},
    "either, verifier, exact": {"method": "llma+sprinter"},
    "hub, fixed, hub": {"method": "spechub", "depth": 2},
    "hub, verifier, hub": {"drafter": "hub", "rule": "hub", "depth": 2},
    "hub, verifier, exact": {"drafter": "hub", "depth": 2},
    "graph, fixed, walk": {"method": "gsd"},
    "graph, verifier, walk": {"drafter": "graph", "rule": "walk"},
    "graph, confidence, walk": {"drafter": "graph", "gate": "confidence", "rule": "walk", "threshold": 0.7},
    "graph, weighed, relaxed": {"method": "gsd-relaxed"},
    "siblings, fixed, exact": {"method": "exact", "drafter": "siblings"},
    "siblings, verifier, exact": {"drafter": "siblings"},
    "layers, fixed, exact": {"method": "swift", "skip_search": 0},
    "layers, confidence, exact": {"drafter": "layers", "gate": "confidence", "threshold": 0.7, "skip_search": 0},
}


@dataclass
class Sum:
    """What one combination did."""

    tokens: int = 0
    calls: int = 0
    ratios: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    atypical: list[float] = field(default_factory=list)

    def add(self, made: Generation, alone: float) -> None:
        """One text; `alone`: tokens/s of the target on it."""
        self.tokens += made.num_tokens
        self.calls += made.counters.target_calls
        self.ratios.append(made.tokens_per_s / alone)
        audit = made.audit
        assert audit is not None and audit.mean_atypical is not None
        if audit.mean_tv is not None:
            self.losses.append(0.0 if audit.tv_upper == 0 else audit.mean_tv)
        self.atypical.append(audit.mean_atypical)

    def row(self) -> dict[str, float | None]:
        """Means over texts; delta is None where a rule's tests are lossy."""
        return {
            "tokens per target call": round(self.tokens / self.calls, 2),
            "over the target": round(float(np.exp(np.mean(np.log(self.ratios)))), 2),
            "delta": round(float(np.mean(self.losses)), 3) if self.losses else None,
            "atypical": round(float(np.mean(self.atypical)), 3),
        }


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--temperature", type=float, default=0.0)
    reader.add_argument("--tokens", type=int, default=64)
    reader.add_argument("--rounds", type=int, default=2)
    given = reader.parse_args()
    writer, sums = Sprinter.from_pretrained(), {name: Sum() for name in WAYS}
    common = {"max_new_tokens": given.tokens, "temperature": given.temperature, "audit": "close"}
    for seed, (prompt, chat) in enumerate(PROMPTS * given.rounds):
        alone = 0.0
        for name, way in WAYS.items():
            copies = {"references": ("-",)} if name.startswith(("copies", "either")) else {}
            made = writer.generate(prompt, chat=chat, seed=seed, **common, **way, **copies)
            alone = made.tokens_per_s if name == "target" else alone
            if seed >= len(PROMPTS) or given.rounds == 1:  # the first turn warms up
                sums[name].add(made, alone)
        print(f"text {seed + 1} of {len(PROMPTS) * given.rounds}", file=sys.stderr)
    results = {name: own.row() for name, own in sums.items()}
    for name, row in results.items():
        print(f"{name:28}", *row.values(), file=sys.stderr)
    used = {"tokens": given.tokens, "temperature": given.temperature, "rounds": given.rounds}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"results": results, "record": stamp(used, 0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
