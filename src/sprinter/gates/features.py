"""What the draft already knows of the token it drew: the only definition of the verifier's inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from sprinter.core.records import Draft, FloatArray
from sprinter.errors import ConfigError
from sprinter.models.base import Capabilities

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

FLOOR = -20.0  # of a log-probability: what lies below is as good as impossible


def needs_of(names: Sequence[str]) -> Capabilities:
    """What a draft model must give for these features; ConfigError for a name that is none."""
    unknown = [n for n in names if n not in VECTORS + SCALARS]
    if unknown or not names:
        known = ", ".join(VECTORS + SCALARS)
        raise ConfigError(f"unknown verifier feature {unknown[0]!r}: choose from {known}" if unknown else "no features")
    return Capabilities(hidden="hidden" in names, embedding="embedding" in names)


def vector(names: Sequence[str], draft: Draft) -> FloatArray:
    """Features `names` of the newest token of `draft`, concatenated in that order, float32 [inputs].

    hidden      the draft's last hidden state at the position that predicts the token, [hidden]
    embedding   the draft's input embedding of the token itself, [hidden]
    the rest    one number each, see `scalars`
    """
    proposal = draft.proposals[-1]
    numbers = scalars(draft) if any(n in SCALARS for n in names) else None
    return assemble(names, proposal.hidden, proposal.embedding, numbers)


def assemble(
    names: Sequence[str], hidden: FloatArray | None, embedding: FloatArray | None, numbers: FloatArray | None
) -> FloatArray:
    """The parts of one or of many tokens in the order of `names`, float32 [..., inputs].

    `hidden` and `embedding` [..., hidden], `numbers` [..., len(SCALARS)]; a part no name asks for may be None.
    """
    parts: list[FloatArray] = []
    for name, places in _plan(tuple(names)):
        part = {"hidden": hidden, "embedding": embedding}.get(name, numbers)
        assert part is not None, "build.py compares capabilities before any model runs"
        parts.append(part if name in VECTORS else part[..., places])
    return np.concatenate(parts, axis=-1, dtype=np.float32)


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


def scalars(draft: Draft) -> FloatArray:
    """All scalar features of the newest token of `draft` in the order of `SCALARS`, float32 [len(SCALARS)].

    log_q           log q(x) under the sampling transform (0 for greedy)
    log_q_raw       log q(x) at temperature 1
    entropy         H(q) at temperature 1, nats
    margin          lead of q's most probable token over its second at temperature 1
    rank            log(1 + number of tokens more probable than x)
    since_target    log(1 + drafted tokens before x since the last target call)
    previous_score  the verifier's score of the token before x; 1 right after a target call
    echo_same       tokens of the longest ending of the text that x followed before (see `echo.py`)
    echo_other      the same for tokens other than x
    """
    proposal = draft.proposals[-1]
    logits = proposal.logits  # [width]
    place = proposal.token if proposal.ids is None else int(proposal.ids.searchsorted(proposal.token))
    own = logits[place]
    best = int(logits.argmax())
    peak = logits[best]
    shifted = logits - peak
    weights = np.exp(shifted)
    total = float(weights.sum())
    log_total = math.log(total)
    with np.errstate(invalid="ignore"):
        moment = float(weights.dot(shifted))
    if math.isnan(moment):
        # A banned token's -inf made 0 * -inf; e^-100 is as good as nothing.
        moment = float(weights @ np.maximum(shifted, -100))
    # Two maxima cost a tenth of a partition, and the rank of the best token is known: this runs for every token.
    below = float(logits[:best].max()) if best else -math.inf
    second = max(below, float(logits[best + 1 :].max())) if best + 1 < len(logits) else below
    rank = 0 if own == peak else int(np.count_nonzero(logits > own))
    previous = draft.scores[-1] if draft.scores else 1.0
    return np.array(
        [
            max(FLOOR, math.log(max(proposal.law.prob(proposal.token), 1e-30))),
            max(FLOOR, float(own - peak) - log_total),
            log_total - moment / total,
            (1 - math.exp(second - float(peak))) / total,
            math.log1p(rank),
            math.log1p(len(draft) - 1),
            1.0 if previous is None else previous,
            *proposal.echo,
        ],
        np.float32,
    )
