"""This version against another one: tokens per second of every method, one text at a time, interleaved.

    git worktree add /tmp/before COMMIT
    python benchmarks/before_after.py --before /tmp/before/src --out benchmarks/results/before-after.json

Each version runs in a process of its own, which keeps its models and is asked prompt by prompt in turn; the ratio of
each method is pooled over prompts, the median of several rounds. Greedy texts are compared as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sprinter.provenance import stamp

PROMPTS = Path(__file__).with_name("prompts") / "chat.jsonl"
METHODS = {
    "target": {"method": "target"},
    "draft": {"method": "draft"},
    "exact": {"method": "exact"},
    "lossless": {"method": "lossless"},
    "sprinter": {"method": "sprinter"},
    "lookahead": {"method": "lookahead"},
    "bild": {"method": "bild"},
    "paper": {"method": "sprinter", "preset": "paper"},
    "confidence": {"method": "sprinter", "scorer": "confidence"},
}
# Only what every version has had: Sprinter.from_pretrained and generate.
SERVANT = """
import json, sys, time
from sprinter import Sprinter
writer = Sprinter.from_pretrained()
for line in sys.stdin:
    asked = json.loads(line)
    began = time.perf_counter()
    made = writer.generate(asked["prompt"], **asked["settings"])
    seconds = time.perf_counter() - began
    told = {"seconds": seconds, "ids": [t.id for t in made.tokens], "origins": [t.origin for t in made.tokens]}
    print(json.dumps(told), flush=True)
"""


class Version:
    """One version's process."""

    def __init__(self, source: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-c", SERVANT]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, prompt: str, settings: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"prompt": prompt, "settings": settings}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit("a version ended before it answered: run its own tests first")
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(before: Version, after: Version, prompts: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each version by prompt, in turns; and how many texts are the same."""
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    tokens, same = {"before": 0, "after": 0}, 0
    for place, prompt in enumerate(prompts):
        turns = [("before", before), ("after", after)]
        told = {}
        for name, version in turns if place % 2 else turns[::-1]:
            told[name] = version.ask(prompt, settings)
            seconds[name].append(told[name]["seconds"])
            tokens[name] += len(told[name]["ids"])
        same += (told["before"]["ids"], told["before"]["origins"]) == (told["after"]["ids"], told["after"]["origins"])
    speeds = {name: tokens[name] / sum(seconds[name]) for name in seconds}
    return {"before": speeds["before"], "after": speeds["after"], "same_texts": same, "texts": len(prompts)}


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--before", type=Path, required=True, help="the src folder of the other version")
    reader.add_argument("--out", type=Path, required=True)
    for name, default in (("prompts", 10), ("max-new-tokens", 64), ("rounds", 3)):
        reader.add_argument(f"--{name}", type=int, default=default)
    given = reader.parse_args()
    texts = [json.loads(line)["text"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()][: given.prompts]
    before, after = Version(given.before.resolve()), Version(Path(__file__).parents[1] / "src")
    results = {}
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()[:12]
    for name, own in METHODS.items():
        settings = {**own, "max_new_tokens": given.max_new_tokens, "temperature": 0.0}
        compare(before, after, texts[:1], settings)  # warm-up
        rounds = [compare(before, after, texts, settings) for _ in range(given.rounds)]
        ratio = float(np.median([r["after"] / r["before"] for r in rounds]))
        results[name] = {
            "before_tokens_per_s": round(float(np.median([r["before"] for r in rounds])), 1),
            "after_tokens_per_s": round(float(np.median([r["after"] for r in rounds])), 1),
            "ratio": round(ratio, 3),
            "same_texts": f"{rounds[0]['same_texts']} of {rounds[0]['texts']}",
        }
        print(f"{name:12}", *(f"{key} {value}" for key, value in results[name].items()), file=sys.stderr)
    before.close()
    after.close()
    used = {**vars(given), "before": given.before.parent.name, "out": given.out.name, "prompts_sha256": digest}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"results": results, "record": stamp(used, 0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
