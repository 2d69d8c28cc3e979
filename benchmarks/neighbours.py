"""The neighbouring systems on one pair: what is accepted by law alone, tokens per target call, and speed beside plain.

    python benchmarks/neighbours.py hub  --data texts.jsonl --out FILE [--places 500]
    python benchmarks/neighbours.py llma --rag rag.jsonl    --out FILE [--prompts 24]
    python benchmarks/neighbours.py layers                  --out FILE [--prompts 20]

`hub` reads places of the target's own text with both models and prints, from the two laws alone, how often one draft,
two with and without replacement, and the hub would be accepted: no sampling, so differences are paired. Then it decodes
with one pair a call, whose tokens per call must be 1 + mean acceptance. `llma` writes answers from passages, repeats
a text, and writes freely, each plainly and by copying in turn; the texts must be the same. `layers` searches for blocks
to leave out on half of the target's own texts and says how often sets of one size are right on the other half.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from sprinter import Sprinter
from sprinter.bench.probe_prompts import PROBE_PROMPTS
from sprinter.core.chance import OWN, Chance
from sprinter.core.rows import FloatArray, Part
from sprinter.core.sampling import Sampling
from sprinter.drafters.blocks import WINDOW, Blocks, Memory, Search, matchness, num_blocks, spread
from sprinter.learn.prompts import read_prompts
from sprinter.provenance import stamp
from sprinter.theory.hub import hub_acceptance, rrs_acceptance, rrsw_acceptance

TEMPERATURES = (0.3, 0.6, 1.0)
STORIES = ("Write a short story about a lighthouse.", "Write a short story about a lost key.")


def laws(
    writer: Sprinter, prompt: list[int], count: int, heat: float, seed: int
) -> list[tuple[FloatArray, FloatArray]]:
    """(p, q) [vocab] at each place of a text that the target writes."""
    pair, sampling, chance = writer.pair, Sampling(heat), Chance(seed)
    limits = pair.limits(with_draft=True)
    target, draft, tokens = pair.target.open(), pair.draft.open(), list(prompt)
    found = []
    for place in range(count):
        (views,) = pair.target.forward([Part(target, tokens[target.length :], 1)])
        (drafted,) = pair.draft.forward([Part(draft, tokens[draft.length :], 1)])
        law = sampling.law(views.logits[0, : limits.vocab_size], tokens)
        own = sampling.law(drafted.logits[0], tokens, pair.draft.head_tokens)
        found.append((law.dense(limits.vocab_size).astype(float), own.dense(limits.vocab_size).astype(float)))
        tokens.append(chance.draw(law, place, 0, OWN))
        if tokens[-1] in limits.eos_ids:
            break
    return found


def hub(writer: Sprinter, given: argparse.Namespace) -> dict[str, Any]:
    prompts = sorted(read_prompts([given.data], [8, 9]), key=lambda p: p.id)
    results = {}
    for heat in TEMPERATURES:
        places: list[tuple[FloatArray, FloatArray]] = []
        for seed, prompt in enumerate(prompts):
            places += laws(writer, writer.pair.tokenizer.encode(prompt.text), 32, heat, seed)
            if len(places) >= given.places:
                break
        table = np.array(
            [
                (rrs_acceptance(p, q, 1), rrs_acceptance(p, q), rrsw_acceptance(p, q), hub_acceptance(p, q),
                 hub_acceptance(p, q, 3))
                for p, q in places
            ]
        )  # fmt: skip
        names = ("one draft", "rrs", "rrsw", "hub", "hub, three branches")
        row: dict[str, Any] = {
            name: round(float(mean), 4) for name, mean in zip(names, table.mean(axis=0), strict=True)
        }
        row["places"] = len(places)
        row["share where the hub loses to rrsw"] = round(float((table[:, 3] < table[:, 2] - 1e-12).mean()), 3)
        row["decoded"] = decoded(writer, [p.text for p in prompts[:20]], heat)
        results[f"temperature {heat:g}"] = row
        print(heat, row, file=sys.stderr)
    return results


def decoded(writer: Sprinter, prompts: list[str], heat: float) -> dict[str, float]:
    """Tokens per target call with one pair a call: 1 + the mean acceptance, within two standard errors."""
    settings: dict[str, Any] = {"method": "spechub", "depth": 1, "temperature": heat, "max_new_tokens": 64, "seed": 1}
    made = writer.generate(prompts, **settings)
    per_call = np.array([m.num_tokens / m.counters.target_calls for m in made])
    return {
        "tokens_per_call": round(float(per_call.mean()), 3),
        "standard_error": round(float(per_call.std(ddof=1) / np.sqrt(len(per_call))), 3),
    }


def tasks(given: argparse.Namespace) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """Prompts with their references, by task."""
    rows = [json.loads(line) for line in given.rag.read_text(encoding="utf-8").splitlines()][: given.prompts]
    passages = [" ".join(row["docs"][:3]) for row in rows]
    answer = [
        f"{text}\n\nAnswer from the text above: {row['query']}?" for text, row in zip(passages, rows, strict=True)
    ]
    repeat = [f"Repeat this text word for word:\n\n{row['docs'][0]}" for row in rows]
    return {
        "answer with a passage": [(p, (text,)) for p, text in zip(answer, passages, strict=True)],
        "repeat a text": [(p, (row["docs"][0],)) for p, row in zip(repeat, rows, strict=True)],
        "write freely": [(p, (passages[0],)) for p in STORIES * max(1, given.prompts // 4)],
    }


def llma(writer: Sprinter, given: argparse.Namespace) -> dict[str, Any]:
    ways = {
        "llma": {"method": "llma"},
        "llma, official n and K": {"method": "llma", "copy_match": 1, "copy_length": 20},
        "llma+exact": {"method": "llma+exact"},
        "exact": {"method": "exact", "draft_length": 2},
    }
    results: dict[str, Any] = {}
    for task, prompts in tasks(given).items():
        told: dict[str, dict[str, float]] = {
            name: {"tokens": 0, "calls": 0, "seconds": 0.0} for name in ("plain", *ways)
        }
        same = 0
        for prompt, references in prompts:
            plain = timed(writer, told["plain"], prompt, {"method": "target"})
            for name, way in ways.items():
                more = {"references": references} if way["method"].startswith("llma") else {}
                same += timed(writer, told[name], prompt, {**way, **more}) == plain
        base = told["plain"]["tokens"] / told["plain"]["seconds"]
        results[task] = {
            name: {
                "tokens_per_call": round(row["tokens"] / row["calls"], 2),
                "over_plain": round(row["tokens"] / row["seconds"] / base, 2),
            }
            for name, row in told.items()
        }
        results[task]["same_texts"] = f"{same} of {len(prompts) * len(ways)}"
        print(task, results[task], file=sys.stderr)
    return results


def timed(writer: Sprinter, told: dict[str, float], prompt: str, settings: dict[str, Any]) -> list[int]:
    """Write one text without the reading of its prompt in the time; its ids."""
    stream = writer.stream(prompt, chat=True, max_new_tokens=96, temperature=0.0, **settings)
    ids = [next(stream).id]
    began = perf_counter()
    ids += [token.id for token in stream]
    told["seconds"] += perf_counter() - began
    told["tokens"] += len(ids)
    told["calls"] += stream.generation.counters.target_calls
    return ids


def layers(writer: Sprinter, given: argparse.Namespace) -> dict[str, Any]:
    target, rng = writer.pair.target, np.random.default_rng(0)
    prompts = [writer.pair.tokenizer.encode(text) for text in PROBE_PROMPTS[: given.prompts]]
    made = writer.generate(list(PROBE_PROMPTS[: given.prompts]), method="target", max_new_tokens=2 * WINDOW)
    texts = [(len(prompt), [*prompt, *(t.id for t in text.tokens)]) for prompt, text in zip(prompts, made, strict=True)]
    texts = [(start, tokens) for start, tokens in texts if len(tokens) == start + 2 * WINDOW]
    seen, held_out = texts[::2], texts[1::2]

    def right(blocks: Blocks) -> float:
        view = target.without(blocks)
        places = [(tokens, at) for start, tokens in held_out for at in (start, start + WINDOW)]
        return float(np.mean([matchness(view, tokens, at) for tokens, at in places]))

    # What searches find out adds up, whatever the share; each begins with what those before it found.
    folder = Path(tempfile.mkdtemp())
    for start, tokens in seen * given.rounds:
        memory = Memory(folder, target.info)
        search = Search(spread(target.info, 1), memory.recall(), memory)
        for _ in range(17):
            search.step(target, tokens, start)
    known = Memory(folder, target.info).recall()
    results: dict[str, Any] = {"texts": len(texts)}
    for share in (0.1, 0.2):
        count = num_blocks(target.info, share)
        first = spread(target.info, count)
        best = known.best(count)
        assert best is not None, "every block was tried"
        every = np.arange(2, 2 * target.info.num_layers - 2)
        drawn = [right(frozenset(rng.choice(every, count, replace=False).tolist())) for _ in range(10)]
        results[f"share {share:g}"] = {
            "blocks": count,
            "searched": round(right(best), 3),
            "first": round(right(first), 3),
            "any, mean": round(float(np.mean(drawn)), 3),
            "any, best": round(max(drawn), 3),
            "bytes of a step": round(target.without(best).info.bytes_per_step / target.info.bytes_per_step, 3),
            "left_out": sorted(best),
        }
        print(share, results[f"share {share:g}"], file=sys.stderr)
    return results


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("what", choices=("hub", "llma", "layers"))
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--data", type=Path, help="of hub: JSON lines with a text each")
    reader.add_argument("--rag", type=Path, help="of llma: JSON lines with a query and docs each")
    reader.add_argument("--places", type=int, default=500)
    reader.add_argument("--prompts", type=int, default=24)
    reader.add_argument("--rounds", type=int, default=2, help="of layers: searches on each text")
    given = reader.parse_args()
    writer = Sprinter.from_pretrained()
    results = {"hub": hub, "llma": llma, "layers": layers}[given.what](writer, given)
    used = {name: value.name if isinstance(value, Path) else value for name, value in vars(given).items()}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"results": results, "record": stamp(used, 0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
