"""Rebuild the default draft from texts of your own.

    python benchmarks/make_default_pair.py --encyclopedia FILE --speeches FILE --work DIR --out DIR

Both files are JSON lines with `title` and `text`. Prompts are the first words of their entries, and chat questions
made from the encyclopedia's titles; the target itself writes the training text. A first draft is trained on a first
file of prompts; the second one goes on from it on both files. Every stage is resumable: run the same command again. Two
cores that multiply bfloat16 (AVX512-BF16) need an hour to write the text and an hour to train; without such
instructions some three times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sprinter.learn import corpus, splits
from sprinter.learn.distill import DistillConfig, DistillEvents, distill
from sprinter.learn.trainer import TrainConfig
from sprinter.zoo.default_pair import default_target

QUESTIONS = (
    "What is {}?",
    "Explain {} in simple terms.",
    'What does the term "{}" mean in computing?',
    "Give me a short summary of {}.",
    "Can you tell me about {}?",
    "Why is {} important?",
    "How does {} work?",
    "Write a short paragraph about {}.",
    "List three facts about {}.",
    "What are the advantages and disadvantages of {}?",
    "Give an example of {}.",
    "Who would use {} and why?",
    "Write a short poem about {}.",
    "Give me three tips about {}.",
    "Write a short story about {}.",
    "How do I get started with {}?",
    "Explain {} to a ten year old.",
    "Write an email to a friend about {}.",
)
TOPICS = """
    the sea,learning to cook,growing tomatoes,a lost dog,running a marathon,saving money,the moon,black holes,
    the Roman Empire,healthy breakfasts,playing the guitar,a rainy day,public speaking,bees,photosynthesis,
    climate change,moving to a new city,sleeping better,a job interview,writing a novel,chess,coffee,mountains,
    electric cars,vaccines,the stock market,painting,gravity,volcanoes,a brave little robot,birthday parties,
    learning Spanish,yoga,dinosaurs,baking bread,friendship,autumn,the internet,taking care of a cat,space travel,
    renewable energy,first aid,Shakespeare,Python programming,fractions,the water cycle,democracy,jazz,camping,tea
"""
MORE_QUESTIONS = (
    "What should a beginner know about {}?",
    "What is the history of {}?",
    "Compare {} with something similar.",
    "Write a dialogue between two people about {}.",
    "What are common mistakes with {}?",
    "Describe {} in one paragraph.",
    "Summarize what is known about {}.",
    "Write a list of questions one could ask about {}.",
    "Is {} worth the effort? Explain.",
    "Give step by step instructions concerning {}.",
)
MORE_TOPICS = """
    cleaning a kitchen,writing a letter of complaint,planning a wedding,the Great Wall of China,recycling,
    tea ceremonies,training a puppy,bicycles,time management,a visit to the museum,learning to swim,making soup,
    stress,the human heart,earthquakes,whales,the French Revolution,a good night's sleep,budgeting,houseplants,
    board games,winter sports,deserts,rainforests,ancient Egypt,the printing press,lighthouses,trains,bridges,
    clouds,rainbows,honey,cheese,chocolate,mathematics homework,negotiating a salary,a healthy back,allergies,
    hiking boots,photography,poetry,theatre,classical music,watercolours,knitting,carpentry,solar panels,
    wind turbines,batteries,satellites,telescopes,microscopes,antibiotics,nutrition labels,the immune system,
    penguins,owls,elephants,spiders,coral reefs,glaciers,tides,seasons,leap years,calendars,maps,languages,
    translation,spelling,handwriting,libraries,newspapers,elections,taxes,insurance,renting a flat,moving house,
    painting a room,repairing a tap,a flat tyre,road trips,airports,packing a suitcase,jet lag,street food,picnics,
    barbecues,fireworks,costumes,gifts,thank-you notes,small talk,shyness,teamwork,leadership,feedback
"""
# Rows of training text, by kind of prompt. A later start is a text from one of its later sentences on.
TRAIN_ROWS = {"article": 2500, "later article": 4500, "speech": 2500, "later speech": 2000, "chat": 3000}
MORE_ROWS = {"article": 1200, "later article": 1500, "speech": 1500, "later speech": 1200, "chat": 4500}
HELD_OUT_ENTRIES = 112
LATER_STARTS = 3
MIN_WORDS = 30  # of a later start, of which the prompt is the first 30%

CONFIG = DistillConfig(
    layers=(0, 10, 20, 29),
    head_tokens=7168,
    held_out_entries=HELD_OUT_ENTRIES,
    new_tokens=80,
    temperatures=(1.0, 1.0, 0.7, 0.0),
    train=TrainConfig(
        steps=3600,
        batch_rows=16,
        micro_rows=4,
        workers=2,
        lr=1.5e-3,
        warmup_steps=100,
        int4_group=32,
        int4_from=0.7,
        save_every=100,
    ),
)

# Then the draft goes on from there, on that text and more.
SECOND_TRAIN = replace(CONFIG.train, steps=2600, lr=1e-3, cooldown_share=0.5, int4_from=0.6)


def chat_entries(
    entries: Sequence[corpus.Entry], rng: random.Random, questions: Sequence[str], topics: str
) -> list[corpus.Entry]:
    """Questions about the titles, titled alike so that they fall in their entry's bucket, and about everyday topics."""
    everyday = [topic.strip() for topic in topics.replace("\n", " ").split(",") if topic.strip()]
    asked = [corpus.Entry(e.title, q.format(e.title), chat=True) for e in entries for q in rng.sample(questions, 2)]
    return asked + [corpus.Entry(topic, q.format(topic), chat=True) for topic in everyday for q in questions]


def later_starts(entry: corpus.Entry, rng: random.Random) -> list[corpus.Entry]:
    """The same text from some of its later sentences on: more prompts, in the same bucket."""
    sentences = re.split(r"(?<=[.!?])\s+", entry.text)
    starts = rng.sample(range(1, len(sentences)), min(LATER_STARTS, len(sentences) - 1))
    rests = [" ".join(sentences[start:]) for start in starts]
    return [replace(entry, text=rest) for rest in rests if len(rest.split()) >= MIN_WORDS]


def write_data(encyclopedia: Path, speeches: Path, file: Path, seed: int) -> None:
    """One file of prompts from both sources and chat questions, in a fixed random order."""
    rng = random.Random(seed)
    articles, talks = corpus.read_entries([encyclopedia]), corpus.read_entries([speeches])
    kinds = {"article": articles, "speech": talks, "chat": chat_entries(articles, rng, QUESTIONS, TOPICS)}
    kinds |= {f"later {k}": [e for entry in kinds[k] for e in later_starts(entry, rng)] for k in ("article", "speech")}
    # Calibration and verifier entries are left out here already: nothing later can use them by mistake.
    kept = []
    for kind, rows in TRAIN_ROWS.items():
        mine = splits.select(kinds[kind], splits.DRAFT_BUCKETS, lambda entry: entry.title)
        kept += rng.sample(mine, min(rows, len(mine)))
    held_out = splits.select(articles + talks, splits.TEST_BUCKETS, lambda entry: entry.title)
    kept += rng.sample(held_out, min(HELD_OUT_ENTRIES, len(held_out)))
    rng.shuffle(kept)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(vars(entry)) + "\n" for entry in kept))


def write_more(encyclopedia: Path, speeches: Path, first: Path, file: Path, seed: int) -> None:
    """A second file for training, of prompts that the first one does not hold; articles are continued once more."""
    rng = random.Random(seed)
    articles, talks = corpus.read_entries([encyclopedia]), corpus.read_entries([speeches])
    topics = TOPICS + "," + MORE_TOPICS
    kinds = {
        "article": articles,
        "speech": talks,
        "chat": chat_entries(articles, rng, QUESTIONS + MORE_QUESTIONS, topics),
    }
    later = {"article": articles, "speech": talks}
    kinds |= {f"later {kind}": [e for x in later[kind] for e in later_starts(x, rng)] for kind in later}
    known = {entry.text for entry in corpus.read_entries([first])}
    kept = []
    for kind, rows in MORE_ROWS.items():
        mine = splits.select(kinds[kind], splits.DRAFT_BUCKETS, lambda entry: entry.title)
        fresh = list({x.text: x for x in mine if kind == "article" or x.text not in known}.values())
        kept += rng.sample(fresh, min(rows, len(fresh)))
    rng.shuffle(kept)
    file.write_text("".join(json.dumps(vars(entry)) + "\n" for entry in kept))


def share_traces(earlier: Path, later: Path) -> None:
    """Let a second distillation find what the target wrote for the first one: the same files under another name."""
    for part in ("train", "test"):
        (later / part).mkdir(parents=True, exist_ok=True)
        for file in corpus.traces(earlier / part):
            place = later / part / file.name
            if not place.exists():
                os.link(file, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encyclopedia", type=Path, required=True)
    parser.add_argument("--speeches", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="intermediate results, about 1 GB")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new draft")
    args = parser.parse_args()
    data, more = args.work / "prompts.jsonl", args.work / "more.jsonl"
    write_data(args.encyclopedia, args.speeches, data, CONFIG.seed)
    write_more(args.encyclopedia, args.speeches, data, more, CONFIG.seed + 1)
    events = DistillEvents(
        on_collect=lambda part, done, total, tokens: print(f"{part} {done}/{total}: {tokens} tokens"),
        on_step=lambda p: p.step % 25 or print(f"step {p.step}: overlap {p.overlap:.3f} loss {p.loss:.3f}"),
    )
    first = args.work / "draft"
    if not first.exists():
        distill(default_target(), [data], first, CONFIG, args.work / "distill", events=events)
    share_traces(args.work / "distill", args.work / "second")
    config = replace(CONFIG, init=str(first), train=SECOND_TRAIN)
    result = distill(default_target(), [data, more], args.out, config, args.work / "second", events=events)
    print(f"{result.out}: held-out overlap {result.score.overlap:.3f}, agreement {result.score.agreement:.3f}")


if __name__ == "__main__":
    main()
