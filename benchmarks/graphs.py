"""Graphs against trees and chains as drafts, on lists and on prose; and what relaxed acceptance really costs.

    python benchmarks/graphs.py --out FILE [--tokens 64]

Every way writes the same greedy texts (checked against the target alone) with the same budget of tokens a target call
tests. Counted for each call: tokens accepted, nodes the draft model computed, nodes the target tested, merges, and
accepted tokens that a merge led to. `relaxed`: the total variation at temperature 1 between the target's law and the
law of one token tested sibling by sibling, at places of the target's own sampled text.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sprinter import Sprinter
from sprinter.bench.probe_prompts import PROBE_PROMPTS
from sprinter.config import make_config
from sprinter.core.chance import OWN, Chance
from sprinter.core.reading import Reading
from sprinter.core.rows import Part
from sprinter.core.sampling import Sampling
from sprinter.core.text import Text
from sprinter.core.tree import Verdict
from sprinter.drafters.graph import Graph, GraphDrafter
from sprinter.provenance import stamp
from sprinter.theory.relaxed import relaxed_distance

LISTS = (
    "The months of the year are January, February, March,",
    "Shopping list:\n- apples\n- bread\n- milk\n-",
    "Monday: open from 9 to 5\nTuesday: open from 9 to 5\nWednesday:",
    "def add(a, b):\n    return a + b\n\ndef subtract(a, b):\n    return a - b\n\ndef multiply(a, b):",
    "1 times 7 is 7\n2 times 7 is 14\n3 times 7 is 21\n4 times 7 is",
    "Countries and capitals:\nFrance - Paris\nSpain - Madrid\nItaly -",
    "<ul>\n<li>red</li>\n<li>green</li>\n<li>",
    "The planets are Mercury, Venus, Earth,",
    "Q: What is 2 plus 2? A: 4. Q: What is 3 plus 3? A: 6. Q:",
    "one, two, three, four, five,",
)
WAYS: dict[str, dict[str, Any]] = {
    "chain": {"graph_width": 1, "merge": -1},
    "tree": {"merge": -1},
    "graph, merge 0": {"merge": 0},
    "graph, merge 1": {"merge": 1},
}


@dataclass
class Account:
    """Looks on at texts of one drafter."""

    drafter: GraphDrafter
    keeps_drafts: bool = False
    calls: int = 0
    accepted: int = 0
    drafted: int = 0
    tested: int = 0
    merges: int = 0
    through: int = 0

    def saw(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Observer.saw`."""
        self.calls += 1
        if not len(text.tree):
            return
        graph: Graph = text.notes[self.drafter]
        self.accepted += len(verdict.path)
        self.drafted += len(graph.tree)
        self.tested += len(text.tree)
        self.through += sum(node in graph.merged for node in verdict.path)
        self.merges += sum(graph.tree.parent(f) != node for node, fs in graph.followers.items() for f in fs)

    def row(self) -> dict[str, float]:
        """Means over calls."""
        each = {name: getattr(self, name) / self.calls for name in ("accepted", "drafted", "tested", "merges")}
        return {name: round(value, 3) for name, value in each.items()} | {
            "accepted through a merge": round(self.through / max(1, self.accepted), 4),
            "calls": self.calls,
        }


def compared(writer: Sprinter, prompts: tuple[str, ...], tokens: int, told: dict[str, float]) -> dict[str, Any]:
    """One row for each way; the texts must be the target's own."""
    plain = [made.text for made in writer.generate(list(prompts), method="target", max_new_tokens=tokens)]
    rows: dict[str, Any] = {}
    for name, way in WAYS.items():
        config = make_config(None, {"method": "gsd", "max_new_tokens": tokens, **told, **way})
        drafter = writer.recipe(config.decoding).drafter
        assert isinstance(drafter, GraphDrafter)
        account = Account(drafter)
        same = sum(
            writer.start(prompt, config, False, [account]).generation.text == text
            for prompt, text in zip(prompts, plain, strict=True)
        )
        rows[name] = account.row() | {"same texts": f"{same} of {len(prompts)}"}
        print(name, rows[name], file=sys.stderr)
    return rows


def relaxed(writer: Sprinter, prompts: tuple[str, ...], places: int = 24) -> dict[str, float]:
    """Mean total variation of one token at temperature 1, by how many siblings are tried."""
    pair, sampling = writer.pair, Sampling()
    limits, ids = pair.limits(with_draft=True), pair.draft.head_tokens
    found: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for seed, prompt in enumerate(prompts):
        chance, tokens = Chance(seed), pair.tokenizer.encode(prompt)
        target, draft = pair.target.open(), pair.draft.open()
        for place in range(places):
            (views,) = pair.target.forward([Part(target, tokens[target.length :], 1)])
            (drafted,) = pair.draft.forward([Part(draft, tokens[draft.length :], 1)])
            law = sampling.law(views.logits[0, : limits.vocab_size], tokens)
            own = sampling.law(drafted.logits[0], tokens, ids)
            p = law.dense(limits.vocab_size).astype(float)
            best = np.argsort(-own.probs)[:4].tolist()
            tried = [(own.token_at(at), float(own.probs[at])) for at in best]
            for width, distances in found.items():
                distances.append(relaxed_distance(p, tried[:width], p))
            tokens.append(chance.draw(law, place, 0, OWN))
            if tokens[-1] in limits.eos_ids:
                break
    return {f"{width} siblings": round(float(np.mean(distances)), 4) for width, distances in found.items()}


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--tokens", type=int, default=64)
    for name in ("floor", "ratio"):
        reader.add_argument(f"--{name}", type=float, help="of the graph; default: the library's")
    given = reader.parse_args()
    writer = Sprinter.from_pretrained()
    asked = {"graph_floor": given.floor, "graph_ratio": given.ratio}
    told = {name: value for name, value in asked.items() if value is not None}
    results: dict[str, Any] = {
        task: compared(writer, prompts, given.tokens, told)
        for task, prompts in {"lists": LISTS, "prose": PROBE_PROMPTS[:10]}.items()
    }
    results["relaxed, total variation"] = relaxed(writer, PROBE_PROMPTS[:10])
    print(results["relaxed, total variation"], file=sys.stderr)
    used = {"tokens": given.tokens, **told}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"results": results, "record": stamp(used, 0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
