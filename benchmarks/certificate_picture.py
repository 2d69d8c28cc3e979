"""The picture of docs/certificate.md: every prompt's loss, the mean so far, the bound on it, and the level.

    python benchmarks/certificate_picture.py --journal FILE.journal.jsonl --loss atypical --level 0.02 \
        --threshold 0.92 --held-atypical 4 --out docs/certificate.svg

Reads what `sprinter calibrate` kept; decodes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from sprinter.certify.calibrate import Plan, Progress
from sprinter.certify.journal import Measurement
from sprinter.certify.risks import Aim, Frame
from sprinter.certify.sample import Sample
from sprinter.core.records import Budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--loss", default="atypical")
    parser.add_argument("--level", type=float, required=True)
    parser.add_argument("--threshold", type=float, required=True)
    parser.add_argument("--held-atypical", type=float, default=math.inf)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.journal.read_text(encoding="utf-8").splitlines()]
    run = lines[0]["journal"]
    rows = sorted((row for row in lines[1:] if row["threshold"] == options.threshold), key=lambda row: row["prompt"])
    measured = [Measurement(row["losses"], row["num_tokens"], row["target_calls"]) for row in rows]
    budget = Budget(atypical=options.held_atypical)
    frame = Frame(run["max_new_tokens"], run["shortest"], run["sampling"]["temperature"] == 0, budget)
    plan = Plan((options.threshold,), (Aim(options.loss, options.level),), 300, 150, run["alpha"], frame=frame)
    counts = range(10, len(measured) + 1, 5)
    means, bounds = [], []
    for count in counts:
        sample = Sample.of(options.loss, measured[:count], frame)
        means.append(sample.mean)
        bounds.append(Progress(plan, options.threshold, plan.aims, {options.loss: sample}).uppers[plan.aims[0]])
    draw(options, measured, list(counts), means, bounds)


def draw(
    options: argparse.Namespace, measured: list[Measurement], counts: list[int], means: list[float], bounds: list[float]
) -> None:
    """Write the picture."""
    mpl.rcParams["svg.hashsalt"] = "certificate"
    each = [sum(row.losses[options.loss]) / row.num_tokens for row in measured]
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    axes.scatter(range(1, len(each) + 1), np.minimum(each, 0.1), s=7, color="#9aa5b1", label="one prompt's text")
    axes.plot(counts, means, color="#2b6cb0", label="mean so far")
    axes.plot(counts, bounds, color="#c05621", label="proven: the mean is below this")
    axes.axhline(options.level, color="#2f855a", linestyle="--", label=f"level {options.level:g}")
    axes.set_ylim(-0.004, 0.104)
    axes.set_xlabel("calibration prompts")
    axes.set_ylabel({"atypical": "share of atypical tokens"}.get(options.loss, options.loss))
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(options.out, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
