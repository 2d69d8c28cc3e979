"""What an output lost: its likelihood and typicality under the target, repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sprinter.core.sampling import Sampling, log_softmax
from sprinter.models.base import LanguageModel
from sprinter.observers.audit import mass_below, typical_floor

_ROWS = 128  # positions read in one forward pass; each row is as long as the vocabulary


@dataclass(frozen=True, slots=True)
class Reading:
    """The target's opinion of an output, position by position, averaged over its tokens."""

    log_likelihood: float  # nats per token at temperature 1
    atypical: float  # share of tokens with p(x) <= min(0.09, 0.3 exp(-H(p))), arXiv:2401.10774
    own_atypical: float  # the target's own expected share at the same positions under the sampling transform
    mismatch: float | None  # share that is not the target's most probable token; None unless greedy


def read_output(
    target: LanguageModel, sampling: Sampling, prompt: Sequence[int], ids: Sequence[int], vocab_size: int
) -> Reading:
    """Let the target read `ids` after `prompt`: the same closing look at every method's output, exact ones included.

    `vocab_size`: ids beyond it are padding. Raises as `LanguageModel.forward` does.
    """
    tokens = [*prompt, *ids]
    logs: list[float] = []
    atypical: list[bool] = []
    own: list[float] = []
    mismatch: list[bool] = []
    for start in range(0, len(ids), _ROWS):
        count = min(_ROWS, len(ids) - start)
        seen = len(prompt) + start
        # Row i is the law of tokens[seen + i], so the last token itself need not be read.
        logits = target.forward(tokens[: seen + count - 1], count).logits[:, :vocab_size]  # [count, vocab]
        for row, token, place in zip(logits, ids[start:], range(seen, seen + count), strict=False):
            floor = typical_floor(row)
            logs.append(float(log_softmax(row)[token]))
            atypical.append(bool(row[token] <= floor))
            own.append(mass_below(sampling.law(row, tokens[:place]), row, floor))
            mismatch.append(bool(int(np.argmax(row)) != token))
    plain_greedy = sampling.greedy and sampling.repetition_penalty == 1
    return Reading(
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
