"""Make the default pair's verifier and measure it: every number of docs/verifier.md comes from here.

    python benchmarks/default_verifier.py texts --data a.jsonl --data b.jsonl --work DIR    the target writes, once
    python benchmarks/default_verifier.py make --data a.jsonl --data b.jsonl --work DIR     collect, train, frontier

`texts` needs no draft and is the dear part; `make` goes on with what it left. Entries of bucket 6 train, those of
buckets 8 and 9 measure. Both can be interrupted and started again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from sprinter.build import Pair
from sprinter.cli.frontier import _gates, _results
from sprinter.config import ModelConfig
from sprinter.decoding.backends.hf import HFModel
from sprinter.evaluation.frontier_table import frontier_lines, goal_lines, goals, schedule_lines
from sprinter.evaluation.gates_plot import plot_gates
from sprinter.provenance import stamp
from sprinter.sampling import Sampling
from sprinter.training.batched import BatchModel
from sprinter.training.collect import CollectSettings, CollectSource, _store, collect
from sprinter.training.fit import PRESETS, fit
from sprinter.training.prompts import Prompt, read_prompts
from sprinter.training.rows import load_rows
from sprinter.training.save import save_verifier

TRANSFORMS = {"greedy": Sampling(0.0), "warm": Sampling(0.7, top_p=0.9), "free": Sampling(1.0)}
TOKENS = 48
BATCH = 32
COSTS = "c=0.1,verifier=0.002"
LARGE = replace(PRESETS["default"], widths=(768, 256), dropout=0.5)


@dataclass(frozen=True)
class Part:
    """One collection: which entries, under which transform first."""

    use: str  # "train" or "test"
    sampling: str
    buckets: tuple[int, ...]
    num_prompts: int

    @property
    def name(self) -> str:
        return f"{self.use}-{self.sampling}"

    @property
    def settings(self) -> CollectSettings:
        own = TRANSFORMS[self.sampling]
        others = tuple(t for t in TRANSFORMS.values() if t != own) if self.use == "train" else ()
        return CollectSettings("exact", TOKENS, (own, *others), BATCH, seed=1 if self.use == "train" else 2)


def parts(scale: float) -> list[Part]:
    """Training and test collections; `scale` shrinks both."""
    sizes = (("train", (6,), (144, 96, 96)), ("test", (8, 9), (96, 80, 80)))
    made = [
        Part(use, sampling, buckets, max(8, int(n * scale)))
        for use, buckets, counts in sizes
        for sampling, n in zip(TRANSFORMS, counts, strict=True)
    ]
    return sorted(made, key=lambda p: list(TRANSFORMS).index(p.sampling))


def prompts_of(part: Part, files: list[Path]) -> list[Prompt]:
    """As many prompts of each file, a choice that the prompts' ids make: the same on every machine."""
    share = part.num_prompts // len(files)
    offset = list(TRANSFORMS).index(part.sampling)
    chosen: list[Prompt] = []
    for file in files:
        found = sorted(read_prompts([file], part.buckets), key=lambda p: p.id)
        # Another third of the entries for each transform, where there are enough.
        turned = found[offset * share :] + found[: offset * share]
        chosen += turned[:share]
    return chosen


def say(text: str) -> None:
    print(f"{text}", file=sys.stderr, flush=True)


def progress(what: str) -> Callable[[int, int], None]:
    started = perf_counter()
    return lambda done, total: say(f"{what} {done}/{total} {perf_counter() - started:.0f} s")


def write_texts(files: list[Path], work: Path, scale: float) -> None:
    """The target's continuations of every part's prompts."""
    pair = Pair(ModelConfig(backend="hf"))
    assert isinstance(pair.target, HFModel)
    target = BatchModel(pair.target)
    limits = pair.limits(with_draft=False)
    source = CollectSource(target, target, pair.tokenizer.encode, limits.vocab_size, limits.eos_ids)
    for part in parts(scale):
        store = _store(source, work / "texts" / part.name, part.settings)
        ids = {p.id: pair.tokenizer.encode(p.text) for p in prompts_of(part, files)}
        ordered = sorted(ids, key=lambda i: (len(ids[i]), i))
        show = progress(f"texts {part.name}")
        for start in range(0, len(ordered), BATCH):
            group = ordered[start : start + BATCH]
            store.texts(group, [ids[i] for i in group])
            show(start + len(group), len(ordered))


def make(files: list[Path], work: Path, out: Path, scale: float, report: Path) -> None:
    """Collect on the kept texts, train three heads, and compare them on unseen prompts."""
    started = perf_counter()
    source = CollectSource.of(Pair(ModelConfig(verifier="none", backend="hf")))
    mark = source.draft.info.fingerprint[:8]
    rows_at = {"train": [], "test": []}
    for part in parts(scale):
        folder = work / f"rows-{mark}" / part.name
        texts = work / "texts" / part.name
        show = progress(f"rows {part.name}")
        collect(source, prompts_of(part, files), folder, part.settings, None, show, texts)
        rows_at[part.use].append(folder)
    rows = load_rows(rows_at["train"])
    made = {"recipe": "benchmarks/default_verifier.py", "collections": [f.name for f in rows_at["train"]]}
    for settings, folder in (
        (PRESETS["default"], out),
        (PRESETS["paper"], work / f"paper-{mark}"),
        (LARGE, work / f"large-{mark}"),
    ):
        save_verifier(folder, fit(rows, settings, progress(f"fit {folder.name}")), rows, made)
    gates = _gates(str(out), work / f"paper-{mark}", work / f"large-{mark}")
    results = _results(rows_at["test"], gates, COSTS, 0)
    found = goals(results, "verifier accept", "verifier typical")
    report.parent.mkdir(parents=True, exist_ok=True)
    tables = [line for r in results for line in frontier_lines(r) + schedule_lines(r)]
    report.with_suffix(".md").write_text("\n".join([*goal_lines(found), *tables]) + "\n")
    described = {"results": results, "goals": [vars(g) for g in found], "record": stamp({"costs": COSTS}, 0)}
    report.write_text(json.dumps(described, indent=1) + "\n")
    plot_gates(results, report.with_suffix(".png"))
    print("\n".join(goal_lines(found)))
    print(f"{len(rows)} training rows, {perf_counter() - started:.0f} s")


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("stage", choices=("texts", "make"))
    reader.add_argument("--data", type=Path, action="append", required=True)
    reader.add_argument("--work", type=Path, required=True, help="where texts, rows and the compared heads are kept")
    reader.add_argument("--out", type=Path, default=Path("src/sprinter/zoo/default/verifier"))
    reader.add_argument("--report", type=Path, default=Path("docs/verifier/frontier.json"))
    reader.add_argument("--scale", type=float, default=1.0, help="share of the prompts to use")
    given = reader.parse_args()
    np.seterr(all="raise", under="ignore")
    if given.stage == "texts":
        write_texts(given.data, given.work, given.scale)
    else:
        make(given.data, given.work, given.out, given.scale, given.report)


if __name__ == "__main__":
    main()
