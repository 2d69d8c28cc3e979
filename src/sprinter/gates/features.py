"""What the draft already knows of the token it drew: the only definition of the verifier's inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from sprinter.core.rows import FloatArray, Needs
from sprinter.core.tree import Proposal
from sprinter.errors import ConfigError

VECTORS = ("hidden", "embedding")
SCALARS = (
    "log_q",
    "log_q_raw",
    "entropy",
    "margin",
    "rank",
    "since_target",
    "previous_score",
    "echo_same",
    "echo_other",
)
ECHOES = ("echo_same", "echo_other")

FLOOR = -20.0  # of a log-probability: what lies below is as good as impossible


def needs_of(names: Sequence[str]) -> Needs:
    """What a draft model must give for these features; ConfigError for a name that is none."""
    unknown = [n for n in names if n not in VECTORS + SCALARS]
    if unknown or not names:
        known = ", ".join(VECTORS + SCALARS)
        raise ConfigError(f"unknown verifier feature {unknown[0]!r}: choose from {known}" if unknown else "no features")
    return Needs(full_laws=True, hidden="hidden" in names, embedding="embedding" in names)


def vector(names: Sequence[str], proposal: Proposal, numbers: FloatArray) -> FloatArray:
    """Features `names` of a drafted token, concatenated in that order, float32 [inputs].

    hidden      the draft's last hidden state at the position that predicts the token, [hidden]
    embedding   the draft's input embedding of the token itself, [hidden]
    the rest    one number each, of `numbers`, see `scalars`
    """
    embedding = proposal.embed(proposal.token) if "embedding" in names and proposal.embed is not None else None
    return assemble(names, proposal.hidden, embedding, numbers)


def assemble(
    names: Sequence[str], hidden: FloatArray | None, embedding: FloatArray | None, numbers: FloatArray | None
) -> FloatArray:
    """The parts of one or of many tokens in the order of `names`, float32 [..., inputs].

    `hidden` and `embedding` [..., hidden], `numbers` [..., len(SCALARS)]; a part no name asks for may be None.
    """
    parts: list[FloatArray] = []
    for name, places in _plan(tuple(names)):
        part = {"hidden": hidden, "embedding": embedding}.get(name, numbers)
        assert part is not None, "needs are compared before any model runs"
        parts.append(part if name in VECTORS else part[..., places])
    return np.concatenate(parts, axis=-1, dtype=np.float32)


def columns_of(names: Sequence[str], inputs: int) -> dict[str, slice]:
    """Which of `inputs` columns each feature takes, where every vector has the same width."""
    vectors = sum(name in VECTORS for name in names)
    width = (inputs - (len(names) - vectors)) // vectors if vectors else 0
    starts = np.cumsum([0, *(width if name in VECTORS else 1 for name in names)]).tolist()
    return {name: slice(a, b) for name, (a, b) in zip(names, pairwise(starts), strict=True)}


@lru_cache(maxsize=64)
def _plan(names: tuple[str, ...]) -> list[tuple[str, slice]]:
    """The vectors of `names`, and its scalars as runs of places that are neighbours: few copies instead of many."""
    plan: list[tuple[str, slice]] = []
    for name in names:
        place = SCALARS.index(name) if name in SCALARS else 0
        if plan and name in SCALARS and plan[-1][0] in SCALARS and plan[-1][1].stop == place:
            plan[-1] = (plan[-1][0], slice(plan[-1][1].start, place + 1))
        else:
            plan.append((name, slice(place, place + 1)))
    return plan


def scalars(proposal: Proposal, place: int, previous: float | None, echo: tuple[int, int]) -> FloatArray:
    """All scalar features of a drafted token in the order of `SCALARS`, float32 [len(SCALARS)].

    log_q           log q(x) under the sampling transform (0 for greedy)
    log_q_raw       log q(x) at temperature 1
    entropy         H(q) at temperature 1, nats
    margin          lead of q's most probable token over its second at temperature 1
    rank            log(1 + number of tokens more probable than x)
    since_target    log(1 + drafted tokens before x since the last target call), from `place`
    previous_score  the verifier's score of the token before x; 1 right after a target call, or without one
    echo_same       tokens of the longest ending of the text that x followed before (see `echo.py`)
    echo_other      the same for tokens other than x

    A drafter without a model (facts are None) says what its law says: all but the first, entropy and margin are 0.
    """
    chance = proposal.law.prob(proposal.token)
    log_q = max(FLOOR, math.log(max(chance, 1e-30)))
    tail = (math.log1p(place), 1.0 if previous is None else previous, *echo)
    if proposal.facts is None or proposal.logits is None:
        return np.array((log_q, log_q, 0.0, 0.0, 0.0, *tail), np.float32)
    best, log_total, entropy, second = proposal.facts.tolist()
    own, peak = proposal.own_logit, float(proposal.logits[int(best)])
    margin = math.exp(peak - log_total) - math.exp(second - log_total)
    rank = 0.0 if own == peak else math.log1p(int(np.count_nonzero(proposal.logits > own)))
    return np.array((log_q, max(FLOOR, own - log_total), entropy, margin, rank, *tail), np.float32)
