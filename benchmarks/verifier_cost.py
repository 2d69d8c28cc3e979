"""Microseconds of a verifier's word on one token, features included, against a draft step's.

    python benchmarks/verifier_cost.py [--width 7168] [--hidden 576] [--layer 128] [--draft-step-us 1700]

Random weights and logits of the default pair's shapes: the cost does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from time import perf_counter

import numpy as np

from sprinter.core.chance import Chance
from sprinter.core.law import Law
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.core.tree import Proposal
from sprinter.gates.features import scalars
from sprinter.gates.verifier import Verifier, VerifierRecord
from sprinter.learn.fit import PRESETS
from sprinter.models.base import facts_of
from sprinter.provenance import stamp


def drafts(width: int, hidden: int, count: int) -> list[Text]:
    """Texts with one drafted token each; tokens repeat as they do in text (Zipf)."""
    rng = np.random.default_rng(0)
    made = []
    for token in np.minimum(rng.zipf(1.2, count) - 1, width - 1).tolist():
        logits = rng.normal(0, 3, width).astype(np.float32)
        law = Law(np.ones(1, np.float32), np.array([token]))
        state = rng.normal(size=hidden).astype(np.float32)
        text = Text(rng.integers(0, width, 200).tolist(), 1, Sampling(), Chance(0), Limits(width, 4096))
        facts = facts_of(logits[None]).table[0]
        text.add(Proposal(token, law, logits, facts, np.arange(width), state, partial(embedding, hidden)))
        made.append(text)
    return made


def embedding(hidden: int, token: int) -> np.ndarray:
    return np.random.default_rng(token).normal(size=hidden).astype(np.float32)


def verifier(hidden: int, layer: int) -> Verifier:
    settings = PRESETS["default"]
    inputs = 2 * hidden + len(settings.features) - 2
    rng = np.random.default_rng(1)
    shapes = ((layer, inputs), (len(settings.outputs), layer))
    layers = [(rng.normal(0, 0.05, s).astype(np.float32), np.zeros(s[0], np.float32)) for s in shapes]
    record = VerifierRecord(settings.features, settings.outputs, 2, "", "", (), 0.5, "")
    return Verifier(layers, record, "accept")


def quartile_us(work: Callable[[Text], object], given: list[Text], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        for text in given:
            started = perf_counter()
            work(text)
            times.append(perf_counter() - started)
    # The first pass warms up. The lower quartile is what the work takes while nothing else wants the processor.
    return float(np.quantile(times[len(given) :], 0.25)) * 1e6


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 7168), ("hidden", 576), ("layer", 128), ("draft-step-us", 1700)):
        reader.add_argument(f"--{name}", type=int, default=default)
    given = reader.parse_args()
    made, head = drafts(given.width, given.hidden, 300), verifier(given.hidden, given.layer)
    total = quartile_us(lambda text: head.score(text, text.tree.fresh[0]), made)
    found = {
        "scalars_us": round(quartile_us(lambda text: scalars(text.tree.fresh[0], 0, 1.0, (0, 0)), made), 1),
        "score_us": round(total, 1),
        "draft_step_us": given.draft_step_us,
        "share_of_draft_step": round(total / given.draft_step_us, 4),
        "record": stamp(vars(given), 0),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
