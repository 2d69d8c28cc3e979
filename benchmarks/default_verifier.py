"""Make the default pair's verifier and measure it: every number of docs/verifier.md comes from here.

    python benchmarks/default_verifier.py --data a.jsonl --data b.jsonl --work DIR     collect, train, frontier

Entries of bucket 6 train, those of buckets 8 and 9 measure. It can be interrupted and started again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from sprinter.api import Sprinter
from sprinter.bench.frontier_table import frontier_lines, goal_lines, goals, schedule_lines
from sprinter.bench.gates_plot import plot_gates
from sprinter.bench.schedules import compare_gates
from sprinter.build import Pair
from sprinter.cli.frontier import _gates
from sprinter.config import ModelConfig
from sprinter.core.sampling import Sampling
from sprinter.learn.collect import CollectSettings, collect
from sprinter.learn.fit import PRESETS, fit
from sprinter.learn.prompts import Prompt, read_prompts
from sprinter.learn.rows import load_rows
from sprinter.learn.save import save_verifier
from sprinter.provenance import stamp
from sprinter.theory.planner import parse_costs

TRANSFORMS = {"greedy": Sampling(0.0), "free": Sampling(1.0), "warm": Sampling(0.7, top_p=0.9)}
TOKENS = 48
BATCH = 32
ON_POLICY_PROMPTS = 12
COSTS = "c=0.1,verifier=0.002"
LARGE = replace(PRESETS["default"], widths=(512,), dropout=0.5, epochs=12)


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


def parts(only: list[str]) -> list[Part]:
    """Training and test collections, of the chosen sampling transforms."""
    sizes = (("train", (6,), (480, 240, 240)), ("test", (8, 9), (96, 64, 64)))
    made = [
        Part(use, sampling, buckets, n)
        for use, buckets, counts in sizes
        for sampling, n in zip(TRANSFORMS, counts, strict=True)
        if sampling in only
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


def make(files: list[Path], work: Path, out: Path, only: list[str], report: Path, draft: str, more: bool) -> None:
    """Collect on the kept texts, train three heads, and compare them on unseen prompts."""
    started = perf_counter()
    pair = Pair(ModelConfig(draft=draft, verifier="none"))
    mark = pair.draft.info.fingerprint[:8]
    rows_at: dict[str, list[Path]] = {"train": [], "test": []}
    for part in parts(only):
        folder = work / f"rows-{mark}" / part.name
        show = progress(f"rows {part.name}")
        collect(pair, prompts_of(part, files), folder, part.settings, None, show)
        rows_at[part.use].append(folder)
    rows = load_rows(rows_at["train"])
    made = {"recipe": "benchmarks/default_verifier.py", "collections": [f.name for f in rows_at["train"]]}
    heads = {"default": out, "paper": work / f"paper-{mark}"}
    if more:
        heads["large"] = work / f"large-{mark}"
    for name, folder in heads.items():
        settings = LARGE if name == "large" else PRESETS[name]
        save_verifier(folder, fit(rows, settings, progress(f"fit {name}")), rows, made)
    gates = _gates(str(out), heads["paper"], heads.get("large"))
    results = compare_gates(load_rows(rows_at["test"]), gates, parse_costs(COSTS), 0)
    found = goals(results, "verifier accept", "verifier typical")
    report.parent.mkdir(parents=True, exist_ok=True)
    tables = [line for r in results for line in frontier_lines(r) + schedule_lines(r)]
    audited = on_policy(files, out, only, draft) if more else []
    described = {
        "results": results,
        "goals": [vars(g) for g in found],
        "on_policy": audited,
        "training_rows": len(rows),
        "record": stamp({"costs": COSTS}, 0),
    }
    report.write_text(json.dumps(described, indent=1) + "\n")
    plot_gates(results, report.with_suffix(".png"))
    insert(report.parent.with_suffix(".md"), [*goal_lines(found), *on_policy_lines(audited), *tables])
    say("\n".join(goal_lines(found)))
    say(f"{len(rows)} training rows, {perf_counter() - started:.0f} s")


def on_policy(files: list[Path], verifier: Path, only: list[str], draft: str) -> list[dict[str, float | str]]:
    """What the audit says when the engine decodes by the verifier's own threshold."""
    writer = Sprinter.from_pretrained(draft=draft, verifier=verifier)
    table: list[dict[str, float | str]] = []
    for sampling in only:
        transform = TRANSFORMS[sampling]
        part = Part("test", sampling, (8, 9), ON_POLICY_PROMPTS)
        sums = {"tv": 0.0, "audited": 0, "calls": 0, "drafted": 0, "tokens": 0}
        show = progress(f"on policy {sampling}")
        for number, prompt in enumerate(prompts_of(part, files), 1):
            found = writer.generate(
                prompt.text,
                max_new_tokens=TOKENS,
                temperature=transform.temperature,
                top_p=transform.top_p,
                seed=number,
                audit="close",
            )
            assert found.audit is not None
            sums["tv"] += (found.audit.mean_tv or 0.0) * found.audit.tokens_audited
            sums["audited"] += found.audit.tokens_audited
            sums["calls"] += sum(t.origin in ("tested", "resampled") for t in found.tokens)
            sums["drafted"] += found.counters.draft_steps
            sums["tokens"] += found.num_tokens
            show(number, ON_POLICY_PROMPTS)
        row: dict[str, float | str] = {"sampling": sampling, "prompts": ON_POLICY_PROMPTS, "tokens": sums["tokens"]}
        row |= {"tv": sums["tv"] / sums["audited"], "calls": sums["calls"] / sums["drafted"]}
        table.append(row)
    return table


def on_policy_lines(audited: list[dict[str, float | str]]) -> list[str]:
    if not audited:
        return []
    lines = [
        "Decoding by the shipped threshold, every token audited (closing call):",
        "",
        "| sampling | prompts | tokens | audited delta per token | share of drafted tokens tested |",
        "|---|---|---|---|---|",
    ]
    for r in audited:
        lines.append(f"| {r['sampling']} | {r['prompts']} | {r['tokens']} | {r['tv']:.3f} | {r['calls']:.3f} |")
    return [*lines, ""]


def insert(file: Path, lines: list[str]) -> None:
    """Replace what stands between the marks of a document."""
    text = file.read_text()
    before, after = text.split("<!-- measured -->")[0], text.split("<!-- end -->")[1]
    file.write_text("\n".join([f"{before}<!-- measured -->", "", *lines, "<!-- end -->"]) + after)


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--data", type=Path, action="append", required=True)
    reader.add_argument("--work", type=Path, required=True, help="where rows and the compared heads are kept")
    reader.add_argument("--out", type=Path, default=Path("src/sprinter/zoo/default/verifier"))
    reader.add_argument("--report", type=Path, default=Path("docs/verifier/frontier.json"))
    reader.add_argument("--more", action="store_true", help="also a large head, and the audit of decoding itself")
    reader.add_argument("--draft", default="default")
    reader.add_argument("--only", choices=list(TRANSFORMS), action="append", help="these sampling transforms only")
    given = reader.parse_args()
    only = given.only or list(TRANSFORMS)
    make(given.data, given.work, given.out, only, given.report, given.draft, given.more)


if __name__ == "__main__":
    main()
