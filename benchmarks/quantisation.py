"""What the fast backend's number formats change: perplexity, total variation and argmax against float32.

    python benchmarks/quantisation.py --texts FILE.jsonl --out benchmarks/results/quantisation.json [--slow]

Reference: the float32 pass over exactly the values in the target's file. Every format reads the same texts (the first
tokens of entries whose titles fall into the test buckets); intervals are over texts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch

from sprinter.core.rows import Model, Part
from sprinter.learn import corpus, splits
from sprinter.models.fast.model import FastModel
from sprinter.models.tokenizer import load_tokenizer
from sprinter.provenance import stamp
from sprinter.zoo import default_pair

BLOCK = 8  # tokens per pass, as in a verification; more would take torch's int4 around its narrow kernel


def log_probs(model: Model, tokens: list[int]) -> torch.Tensor:
    cache, blocks = model.open(), [tokens[i : i + BLOCK] for i in range(0, len(tokens), BLOCK)]
    rows = [model.forward([Part(cache, block, len(block))])[0].logits for block in blocks]
    return torch.from_numpy(np.concatenate(rows)).float().log_softmax(-1)  # [tokens, vocab]


def compare(reference: torch.Tensor, found: torch.Tensor, tokens: list[int]) -> tuple[float, float, float]:
    """(negative log-likelihood per token in nats, mean total variation, share of rows with the same argmax)."""
    nll = -found[:-1].gather(1, torch.tensor(tokens[1:])[:, None]).mean()
    tv = 0.5 * (reference.exp() - found.exp()).abs().sum(-1).mean()
    return float(nll), float(tv), float((reference.argmax(-1) == found.argmax(-1)).float().mean())


def load_models(slow: bool) -> dict[str, Model]:
    folder = default_pair.default_target()
    models: dict[str, Model] = {
        "float32": FastModel.load(folder, "float32"),
        "fast int4": FastModel.load(folder, "int4"),
        "fast int8": FastModel.load(folder, "int8"),
    }
    if slow:
        os.environ["SPRINTER_NATIVE"] = "0"
        models["fast int4, torch"] = FastModel.load(folder, "int4")
        del os.environ["SPRINTER_NATIVE"]
        models["fast bfloat16"] = FastModel.load(folder, "bfloat16")
        from sprinter.models.hf import HFModel  # noqa: PLC0415 - transformers takes seconds to import

        models["transformers bfloat16"] = HFModel.load(folder, "bfloat16")
    return models


def summarise(name: str, rows: np.ndarray, base: np.ndarray) -> dict[str, object]:
    """`rows` and `base` [texts, 3]: nll, tv, agreement; of this format and of float32."""
    standard_error = rows[:, 1].std(ddof=1) / len(rows) ** 0.5
    change = rows[:, 0] - base[:, 0]
    return {
        "format": name,
        "perplexity": round(float(np.exp(rows[:, 0].mean())), 4),
        "perplexity_change_percent": round(100 * float(np.expm1(change.mean())), 3),
        "perplexity_change_percent_standard_error": round(100 * float(change.std(ddof=1) / len(rows) ** 0.5), 3),
        "mean_tv": round(float(rows[:, 1].mean()), 5),
        "mean_tv_standard_error": round(float(standard_error), 5),
        "same_argmax": round(float(rows[:, 2].mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--texts", type=Path, required=True, help="JSON lines with title and text")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-texts", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--slow", action="store_true", help="also torch's int4 kernel, and bfloat16 here and in transformers"
    )
    args = parser.parse_args()
    tokenizer = load_tokenizer(default_pair.default_target())
    entries = splits.select(corpus.read_entries([args.texts]), splits.TEST_BUCKETS, lambda entry: entry.title)
    ids = [tokenizer.encode(entry.text)[: args.max_tokens] for entry in entries]
    long_enough = [tokens for tokens in ids if len(tokens) >= 32]
    chosen = random.Random(args.seed).sample(long_enough, min(args.num_texts, len(long_enough)))
    models = load_models(args.slow)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in models}
    for number, tokens in enumerate(chosen, 1):
        reference = log_probs(models["float32"], tokens)
        for name, model in models.items():
            found[name].append(compare(reference, log_probs(model, tokens), tokens))
        print(f"\r{number}/{len(chosen)}", end="", file=sys.stderr)
    base = np.array(found["float32"])
    config = {
        "num_texts": len(chosen),
        "max_tokens": args.max_tokens,
        "texts": args.texts.name,
        "slow": args.slow,
    }
    result = {
        **stamp(config, args.seed),
        "command": f"python benchmarks/quantisation.py --texts {args.texts.name}",
        "num_tokens": sum(map(len, chosen)),
        "results": [summarise(name, np.array(rows), base) for name, rows in found.items()],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["results"], indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
