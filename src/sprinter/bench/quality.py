"""What an output lost: its likelihood and typicality under the target, repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sprinter.core.law import log_softmax
from sprinter.core.rows import Model, Part
from sprinter.core.sampling import Sampling
from sprinter.observers.audit import mass_below, typical_floor

_ROWS = 128  # positions read in one forward pass; each row is as long as the vocabulary


@dataclass(frozen=True, slots=True)
class Opinion:
    """The target's opinion of an output, position by position, averaged over its tokens."""

    log_likelihood: float  # nats per token at temperature 1
    atypical: float  # share of tokens with p(x) <= min(0.09, 0.3 exp(-H(p))), arXiv:2401.10774
    own_atypical: float  # the target's own expected share at the same positions under the sampling transform
    mismatch: float | None  # share that is not the target's most probable token; None unless greedy


def read_output(
    target: Model, sampling: Sampling, prompt: Sequence[int], ids: Sequence[int], vocab_size: int
) -> Opinion:
    """Let the target read `ids` after `prompt`: the same closing look at every method's output, exact ones included.

    `vocab_size`: ids beyond it are padding. Raises as `Model.forward` does.
    """
    tokens, cache = [*prompt, *ids], target.open()
    logs: list[float] = []
    atypical: list[bool] = []
    own: list[float] = []
    mismatch: list[bool] = []
    for start in range(0, len(ids), _ROWS):
        count = min(_ROWS, len(ids) - start)
        seen = len(prompt) + start
        # Row i is the law of tokens[seen + i], so the last token itself need not be read.
        (views,) = target.forward([Part(cache, tokens[cache.length : seen + count - 1], count)])
        logits = views.logits[:, :vocab_size]  # [count, vocab]
        for row, token, place in zip(logits, ids[start:], range(seen, seen + count), strict=False):
            floor = typical_floor(row)
            logs.append(float(log_softmax(row)[token]))
            atypical.append(bool(row[token] <= floor))
            own.append(mass_below(sampling.law(row, tokens[:place]), row, floor))
            mismatch.append(bool(int(np.argmax(row)) != token))
    plain_greedy = sampling.greedy and sampling.repetition_penalty == 1
    return Opinion(
        log_likelihood=float(np.mean(logs)),
        atypical=float(np.mean(atypical)),
        own_atypical=float(np.mean(own)),
        mismatch=float(np.mean(mismatch)) if plain_greedy else None,
    )


def diversity(ids: Sequence[int]) -> Mapping[str, float | None]:
    """distinct1 and distinct2, unlike n-grams over all n-grams of ids (Li et al. 2016, arXiv:1510.03055), and repeat4.

    repeat4 is the share of 4-grams that have come before in the text; None where a text is too short.
    """

    def distinct(n: int) -> float | None:
        grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        return len(set(grams)) / len(grams) if grams else None

    four = distinct(4)
    return {"distinct1": distinct(1), "distinct2": distinct(2), "repeat4": None if four is None else 1 - four}
