"""Whether a target could draft for itself with blocks left out: timed sub-layers and counted matches, put to theory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.rows import Model, Part
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.blocks import WINDOW, Blocks, Means, matchness, num_blocks, spread
from sprinter.engine import Engine
from sprinter.gates.fixed import FixedGate
from sprinter.rules.exact import ExactRule
from sprinter.theory.costs import Costs, best_draft_length, exact_seconds_per_token

SHARES: Final = (0.1, 0.3, 0.5)
_STEPS: Final = 24  # timed, of each view in turn


@dataclass(frozen=True, slots=True)
class Thin:
    """A draft that is the target without a share of its blocks."""

    share: float
    cost: float  # its step, in target forwards of one token
    matched: float  # share of the target's own greedy tokens that are its likeliest too
    speedup: float  # exact decoding with its best draft length, over the target alone
    needed: float | None  # least `matched` at which that would be above 1; None: not even if always right


@dataclass(frozen=True, slots=True)
class SubLayers:
    """What leaving out one block saves, in target forwards of one token."""

    attention: float
    mlp: float


def time_blocks(target: Model, prompt: Sequence[int]) -> SubLayers:
    """Steps of the target, of it without half of its attention blocks, and without half of its MLP blocks, in turn."""
    inner = range(1, target.info.num_layers - 1)
    gone = [2 * layer for layer in inner][::2]
    views = [target, target.without(gone), target.without([block + 1 for block in gone])]
    caches = [view.open() for view in views]
    for view, cache in zip(views, caches, strict=True):
        view.forward([Part(cache, prompt, 1)])
    seconds = np.zeros((_STEPS, len(views)))
    for turn in range(_STEPS):
        for place, (view, cache) in enumerate(zip(views, caches, strict=True)):
            began = perf_counter()
            view.forward([Part(cache, prompt[-1:], 1)])
            seconds[turn, place] = perf_counter() - began
    whole, attention, mlp = np.median(seconds, axis=0).tolist()
    return SubLayers((whole - attention) / len(gone) / whole, (whole - mlp) / len(gone) / whole)


def thin_drafts(
    target: Model, texts: Sequence[tuple[Sequence[int], int]], blocks: SubLayers, costs: Costs, known: Means
) -> list[Thin]:
    """One for each of SHARES. `texts`: (tokens, place) with `WINDOW` greedy tokens of the target's from place on.

    Left out are the blocks that are missed least as far as is `known`, else blocks spread over the layers.
    """
    found = []
    for share in SHARES:
        count = num_blocks(target.info, share)
        if not count:
            continue
        left_out = known.best(count) or spread(target.info, count)
        view = target.without(left_out)
        matched = float(np.mean([matchness(view, tokens, start) for tokens, start in texts]))
        thin = dataclasses.replace(costs, draft_s=_cost(left_out, blocks) * costs.target_s(1))
        needed = next((a for a in np.linspace(0, 1, 201).tolist() if _speedup(a, thin) > 1), None)
        found.append(Thin(share, _cost(left_out, blocks), matched, _speedup(matched, thin), needed))
    return found


def greedy_texts(target: Model, prompts: Sequence[Sequence[int]], limits: Limits) -> list[tuple[list[int], int]]:
    """(tokens, place) for `thin_drafts`: what the target writes after prompts; none where it ends before."""
    engine = Engine(target)
    texts = [
        engine.begin(Text(prompt, WINDOW, Sampling(0.0), Chance(0), limits), Recipe(FixedGate(0), ExactRule()))
        for prompt in prompts
    ]
    engine.run(texts)
    return [(text.tokens, text.num_prompt) for text in texts if text.num_tokens == WINDOW]


def _cost(left_out: Blocks, blocks: SubLayers) -> float:
    saved = sum(blocks.attention if block % 2 == 0 else blocks.mlp for block in left_out)
    return max(0.01, 1 - saved)


def _speedup(matched: float, costs: Costs) -> float:
    length = best_draft_length(matched, costs, longest=16)
    return costs.alone_s / exact_seconds_per_token(matched, length, costs)
