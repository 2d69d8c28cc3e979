"""Microseconds of a verifier's word on one token, features included, against a draft step's.

    python benchmarks/verifier_cost.py [--width 7168] [--hidden 576] [--layer 128] [--draft-step-us 1700]

Random weights and logits of the default pair's shapes: the cost does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
from time import perf_counter

import numpy as np

from sprinter.core.records import Draft, Law, Proposal
from sprinter.gates.features import scalars
from sprinter.gates.verifier import Verifier, VerifierRecord
from sprinter.learn.fit import PRESETS
from sprinter.provenance import stamp


def drafts(width: int, hidden: int, count: int) -> list[Draft]:
    """Drafts of one token each; tokens repeat as they do in text (Zipf)."""
    rng = np.random.default_rng(0)
    made = []
    for token in np.minimum(rng.zipf(1.2, count) - 1, width - 1).tolist():
        logits = rng.normal(0, 3, width).astype(np.float32)
        embedding = np.random.default_rng(token).normal(size=hidden).astype(np.float32)
        law = Law(np.ones(1, np.float32), np.array([token]))
        state = rng.normal(size=hidden).astype(np.float32)
        made.append(Draft([token], [Proposal(token, law, logits, np.arange(width), state, embedding)]))
    return made


def verifier(hidden: int, layer: int) -> Verifier:
    settings = PRESETS["default"]
    inputs = 2 * hidden + len(settings.features) - 2
    rng = np.random.default_rng(1)
    shapes = ((layer, inputs), (len(settings.outputs), layer))
    layers = [(rng.normal(0, 0.05, s).astype(np.float32), np.zeros(s[0], np.float32)) for s in shapes]
    record = VerifierRecord(settings.features, settings.outputs, 2, "", "", (), 0.5, "")
    return Verifier(layers, record, "accept")


def quartile_us(work: object, given: list[Draft], repeats: int = 5) -> float:
    assert callable(work)
    times = []
    for _ in range(repeats):
        for draft in given:
            started = perf_counter()
            work(draft)
            times.append(perf_counter() - started)
    # The first pass warms up. The lower quartile is what the work takes while nothing else wants the processor.
    return float(np.quantile(times[len(given) :], 0.25)) * 1e6


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 7168), ("hidden", 576), ("layer", 128), ("draft-step-us", 1700)):
        reader.add_argument(f"--{name}", type=int, default=default)
    given = reader.parse_args()
    made, head = drafts(given.width, given.hidden, 300), verifier(given.hidden, given.layer)
    total = quartile_us(head.score, made)
    found = {
        "scalars_us": round(quartile_us(scalars, made), 1),
        "score_us": round(total, 1),
        "draft_step_us": given.draft_step_us,
        "share_of_draft_step": round(total / given.draft_step_us, 4),
        "record": stamp(vars(given), 0),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
