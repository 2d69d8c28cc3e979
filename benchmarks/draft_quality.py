"""Acceptance of a draft on the target's own held-out text, per set, with intervals over prompts.

    python benchmarks/draft_quality.py --draft DIR --target DIR --set encyclopedia=FILE --set chat=FILE --work DIR

Per set: alpha = mean over positions of sum_x min(p, q) where the target wrote at temperature 1, and the share of
positions where both laws have the same largest token where it wrote greedily. Only entries of the test buckets count.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch

from sprinter.decoding.backends.checkpoint import load_torch_draft
from sprinter.training import corpus, quantize, splits, student
from sprinter.training.distill import load_teacher
from sprinter.training.losses import judge
from sprinter.training.teacher import OutputLaw, final_hidden, output_law

NEW_TOKENS = 48
NUM_PROMPTS = 60


def write_sets(target: Path, sets: dict[str, Path], work: Path, seed: int) -> None:
    """The target writes `NEW_TOKENS` after each test prompt, once at temperature 1 and once greedily."""
    teacher = load_teacher(target, "cpu")
    how = corpus.Writing(NEW_TOKENS, teacher.end_ids, seed)
    for name, file in sets.items():
        entries = corpus.read_entries([file])
        if not all(entry.chat for entry in entries):  # chat questions are held out as a file
            entries = splits.select(entries, splits.TEST_BUCKETS, lambda entry: entry.title)
            entries = random.Random(seed).sample(entries, min(NUM_PROMPTS, len(entries)))
        for heat in (1.0, 0.0):
            jobs = corpus.writing_jobs(entries, teacher.tokenizer, (heat,), 112, seed)
            corpus.collect(teacher.model, teacher.law, jobs, how, work / f"{name}-{heat:g}", lambda _: None)


@torch.no_grad()
def per_prompt(model: object, law: OutputLaw, ids: torch.Tensor | None, folder: Path) -> np.ndarray:
    """[prompts, 4]: summed overlap, positions; positions where the draft names the next token, of how many."""
    rows = []
    for file in corpus.traces(folder):
        trace = corpus.load_trace(file)
        for row in range(len(trace.tokens)):
            first, stop = int(trace.first[row]), int(trace.stop[row])
            part = slice(first, stop)
            tokens = trace.tokens[row : row + 1, :stop].long()  # [1, stop]
            states = final_hidden(model, input_ids=tokens).last_hidden_state[0, part]  # [n, hidden]
            found = judge(law, law, states, trace.hidden[row, part], trace.log_norm[row, part], None)
            best = law.logits(states).argmax(-1)  # [n]
            best = best if ids is None else ids[best]
            agree = int((best[:-1] == tokens[0, first + 1 :]).sum())
            rows.append((found.overlap, stop - first, agree, stop - first - 1))
    return np.array(rows, dtype=float)


def interval(sums: np.ndarray, counts: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """(mean per position, low, high): 95% bootstrap over prompts."""
    picks = np.random.default_rng(seed).integers(0, len(sums), (2000, len(sums)))
    low, high = np.quantile(sums[picks].sum(1) / counts[picks].sum(1), [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="NAME=FILE")
    parser.add_argument("--work", type=Path, required=True, help="where the target's text is kept")
    parser.add_argument("--int4-group", type=int, default=0, help="round the draft's layers to 4 bits first")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sets = {item.partition("=")[0]: Path(item.partition("=")[2]) for item in args.set}
    write_sets(args.target, sets, args.work, args.seed)
    model, ids = load_torch_draft(args.draft, args.target)
    law = output_law(model) if ids is None else output_law(model).rows(ids)
    own = set(student.own_names(model))
    parameters = {name: p for name, p in model.named_parameters() if name in own}
    result = {"draft": str(args.draft), "int4_group": args.int4_group, "sets": {}}
    with quantize.rounded(parameters, args.int4_group):
        for name in sets:
            hot = per_prompt(model, law, ids, args.work / f"{name}-1")
            cold = per_prompt(model, law, ids, args.work / f"{name}-0")
            result["sets"][name] = {
                "alpha": [round(v, 4) for v in interval(hot[:, 0], hot[:, 1])],
                "agreement": [round(v, 4) for v in interval(cold[:, 2], cold[:, 3])],
                "prompts": len(hot),
                "positions": [int(hot[:, 1].sum()), int(cold[:, 3].sum())],
            }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
