"""Acceptance of a draft on the target's own held-out text, per set, with intervals over prompts.

    python benchmarks/draft_quality.py --set encyclopedia=FILE --set speeches=FILE --set chat=FILE --out FILE

Both models run as decoding runs them (`--backend fast`: 4 bits, compiled). Per set: alpha = mean over positions of
sum_x min(p, q) where the target wrote at temperature 1; where it wrote greedily, the share of positions at which the
draft's most probable token is the target's. Only entries of the test buckets count; chat files are held out whole.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np

from sprinter.build import Pair
from sprinter.config import ModelConfig
from sprinter.core.chance import OWN, Chance
from sprinter.core.rows import FloatArray, Part
from sprinter.core.sampling import Sampling
from sprinter.learn import corpus, splits
from sprinter.provenance import stamp

NEW_TOKENS = 64
NUM_PROMPTS = 60


def prompts_of(file: Path, pair: Pair, seed: int) -> list[list[int]]:
    """Token ids of the prompts of a set."""
    entries = corpus.read_entries([file])
    if all(entry.chat for entry in entries):
        return [pair.tokenizer.encode_chat(entry.text) for entry in entries]
    entries = splits.select(entries, splits.TEST_BUCKETS, lambda entry: entry.title)
    entries = random.Random(seed).sample(entries, min(NUM_PROMPTS, len(entries)))
    return [pair.tokenizer.encode(splits.prompt_of(entry.text)[0]) for entry in entries]


def written(pair: Pair, prompt: list[int], sampling: Sampling, chance: Chance) -> tuple[list[int], FloatArray]:
    """(tokens the target writes, its logits at each, [tokens, vocab])."""
    limits = pair.limits(with_draft=True)
    tokens, rows, cache = list(prompt), list[FloatArray](), pair.target.open()
    while len(rows) < NEW_TOKENS and not (rows and tokens[-1] in limits.eos_ids):
        (views,) = pair.target.forward([Part(cache, tokens[cache.length :], 1)])
        rows.append(views.logits[0, : limits.vocab_size])
        tokens.append(chance.draw(sampling.law(rows[-1], tokens), len(rows), 0, OWN))
    return tokens[len(prompt) :], np.stack(rows)


def judged(pair: Pair, prompt: list[int], sampling: Sampling, chance: Chance) -> tuple[float, int, int]:
    """(summed overlap, positions with the same best token, positions) of one prompt."""
    text, target_logits = written(pair, prompt, sampling, chance)
    (views,) = pair.draft.forward([Part(pair.draft.open(), [*prompt, *text[:-1]], len(text))])
    logits = views.logits
    ids, tokens = pair.draft.head_tokens, [*prompt, *text]
    free, overlap, agree = Sampling(), 0.0, 0
    for place in range(len(text)):
        before = tokens[: len(prompt) + place]
        draft_law = free.law(logits[place], before, ids)
        target_law = free.law(target_logits[place], before)
        target_probs = target_law.at(draft_law.ids, target_logits.shape[1])
        overlap += float(np.minimum(draft_law.probs, target_probs).sum())
        best = int(logits[place].argmax())
        agree += int(target_logits[place].argmax()) == (best if ids is None else int(ids[best]))
    return overlap, agree, len(text)


def interval(sums: FloatArray, counts: FloatArray, seed: int = 0) -> list[float]:
    """[mean per position, low, high]: 95% bootstrap over prompts."""
    picks = np.random.default_rng(seed).integers(0, len(sums), (2000, len(sums)))
    low, high = np.quantile(sums[picks].sum(1) / counts[picks].sum(1), [0.025, 0.975])
    return [round(float(v), 4) for v in (sums.sum() / counts.sum(), low, high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", default="default")
    parser.add_argument("--target", default="default")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--set", action="append", required=True, help="NAME=FILE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    pair = Pair(ModelConfig(draft=given.draft, target=given.target, backend=given.backend, verifier="none"))
    found: dict[str, dict[str, object]] = {}
    for name, file in (item.split("=", 1) for item in given.set):
        prompts = prompts_of(Path(file), pair, given.seed)
        table = {}
        for heat in (1.0, 0.0):
            chances = [Chance(given.seed * 1_000_003 + n) for n in range(len(prompts))]
            rows = [judged(pair, prompt, Sampling(heat), own) for prompt, own in zip(prompts, chances, strict=True)]
            table[heat] = np.array(rows, float)  # [prompts, 3]
        hot, cold = table[1.0], table[0.0]
        found[name] = {
            "prompts": len(prompts),
            "alpha_t1": interval(hot[:, 0], hot[:, 2]),
            "alpha_on_greedy_text": interval(cold[:, 0], cold[:, 2]),
            "greedy_agreement": interval(cold[:, 1], cold[:, 2]),
            "positions": [int(hot[:, 2].sum()), int(cold[:, 2].sum())],
        }
        print(name, found[name], file=sys.stderr, flush=True)
    record = stamp({"new_tokens": NEW_TOKENS}, given.seed)
    given.out.write_text(json.dumps({"draft": pair.draft.info.fingerprint, "sets": found, "record": record}, indent=1))


if __name__ == "__main__":
    main()
