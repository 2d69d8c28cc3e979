"""Short trainings of several draft designs on the same traces, and what exact decoding would gain from each.

    python benchmarks/draft_search.py --work WORK/distill --out benchmarks/results/draft_search.json

WORK is the folder of `make default-pair` after the target has written its text. A short run ranks how fast a design
learns, not where it ends. The predicted speed-up is that of exact decoding at its best length, from the held-out
overlap and the bytes a draft step reads (4-bit layers and head, groups of 32) over those of the target; a target pass
over n tokens costs 1 + SLOPE (n - 1) of its steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from make_default_pair import CONFIG

from sprinter.learn import head, student
from sprinter.learn.distill import load_teacher
from sprinter.learn.trainer import TrainConfig, Trainer
from sprinter.provenance import stamp
from sprinter.theory.costs import Costs, WidthCost, best_draft_length, exact_seconds_per_token
from sprinter.zoo.default_pair import default_target

TARGET_BYTES = 96e6  # of one step of the default target, 4-bit layers and 8-bit head
BYTES_PER_WEIGHT = 20 / 32  # 4 bits, with a float16 scale and minimum per 32
SLOPE = 0.1
SHORT = replace(CONFIG.train, steps=80, warmup_steps=20, int4_from=1.0)


@dataclass(frozen=True)
class Design:
    """What differs from one draft to another."""

    layers: tuple[int, ...]
    head: int = 7168
    feed_forward: int | None = None  # neurons per layer; None: the target's 1,536
    weights: Mapping[str, float] = field(default_factory=dict)  # of the losses


FOUR = (0, 10, 20, 29)
DESIGNS = {
    "1 layer": Design((29,)),
    "2 layers": Design((0, 29)),
    "3 layers": Design((0, 15, 29)),
    "4 layers": Design(FOUR),
    "4 layers, first ones": Design((0, 1, 2, 29)),
    "6 layers": Design((0, 6, 12, 18, 24, 29)),
    "4 layers, 768 neurons": Design(FOUR, feed_forward=768),
    "6 layers, 768 neurons": Design((0, 6, 12, 18, 24, 29), feed_forward=768),
    "4 layers, KL alone": Design(FOUR, weights={"tv_weight": 0.0}),
    "4 layers, TV alone": Design(FOUR, weights={"kl_weight": 0.0}),
    "4 layers, no hidden-state loss": Design(FOUR, weights={"feature_weight": 0.0}),
    "4 layers, head of 16,384": Design(FOUR, head=16384),
}


def measure(make: Callable[[Design, TrainConfig], Trainer], work: Path, name: str) -> dict[str, str | float | None]:
    """Train one design and judge it on the held-out traces."""
    design = DESIGNS[name]
    trainer = make(design, replace(SHORT, **design.weights))
    started = perf_counter()
    judged = sum(progress.tokens for progress in trainer.run(work / "train"))
    seconds = perf_counter() - started
    score = trainer.score(work / "test")
    weights_read = sum(p.numel() for p in trainer.own.values() if p.dim() == 2) + trainer.head.weight.numel()
    cost = weights_read * BYTES_PER_WEIGHT / TARGET_BYTES
    costs = Costs(cost, 0.0, WidthCost((1, 2), (1.0, 1.0 + SLOPE)))
    length = best_draft_length(score.overlap, costs)
    return {
        "design": name,
        "layers": ",".join(map(str, design.layers)),
        "head": design.head,
        "feed_forward": design.feed_forward,
        "judged_positions": judged,
        "seconds": round(seconds),
        "overlap": round(score.overlap, 4),
        "agreement": round(score.agreement, 4),
        "bytes_share": round(cost, 3),
        "exact_length": length,
        "exact_speedup": round(1 / exact_seconds_per_token(score.overlap, length, costs), 3),
    }


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--work", type=Path, required=True)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--only", choices=list(DESIGNS), action="append")
    given = reader.parse_args()
    teacher = load_teacher(default_target(), "cpu")
    mass = head.target_mass(teacher.law, given.work / "train", CONFIG.mass_positions)

    def make(design: Design, config: TrainConfig) -> Trainer:
        law = teacher.law.rows(head.head_ids(mass, design.head, teacher.end_ids)).to(torch.float32)
        return Trainer(student.make_student(teacher.model, design.layers, design.feed_forward), law, config)

    found: list[dict[str, Any]] = json.loads(given.out.read_text())["designs"] if given.out.is_file() else []
    for design in given.only or DESIGNS:
        if any(row["design"] == design for row in found):
            continue
        found.append(measure(make, given.work, design))
        print(found[-1], flush=True)
        given.out.write_text(json.dumps({"designs": found, "record": stamp(vars(SHORT), SHORT.seed)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
