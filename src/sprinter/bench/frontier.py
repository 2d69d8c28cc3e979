"""Gates compared on recorded rows: what a share of target calls costs in quality, with intervals over prompts.

On rows that the draft wrote alone, a gate that vouches for some of the drafted tokens has

    calls      share of drafted tokens it does not vouch for: each is a target call
    tv         mean v (1 - a), an unbiased estimate of the mean one-step delta
    atypical   mean v (1[x atypical] - the target's own chance of an atypical token there)

Sweeping a threshold over a score gives a curve; the oracle sweeps over the loss itself, and no gate on the same rows
can be better (Neyman & Pearson). For tv no gate at all can pass calls = 1 - alpha - delta (docs/verifier.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sprinter.errors import DataError
from sprinter.gates.verifier import Verifier
from sprinter.learn.fit import transform_name
from sprinter.learn.metrics import measures, reliability
from sprinter.learn.rows import Rows

Array = NDArray[np.float64]
Places = NDArray[np.int64]

TV_LEVELS: Final = (0.02, 0.05, 0.1, 0.15)
ATYPICAL_LEVELS: Final = (0.01, 0.02, 0.05)
UNTRAINED: Final = ("confidence", "entropy", "margin")
_CURVE_POINTS: Final = 101
_RESAMPLES: Final = 400


@dataclass(frozen=True)
class Traces:
    """The rows of one sampling transform, in the order they were written, with every gate's score of them."""

    name: str
    prompt: Places  # [rows], 0 .. num_prompts - 1
    num_prompts: int
    accept: Array  # [rows]
    typical: Array  # [rows]
    own_atypical: Array  # [rows]
    scores: Mapping[str, Array]  # gate -> [rows]; what is higher is vouched for first

    @property
    def losses(self) -> dict[str, Array]:
        """What vouching for each row costs, [rows], by name of the loss."""
        return {"tv": 1 - self.accept, "atypical": 1 - self.typical - self.own_atypical}

    def score_for(self, gate: str, loss: str) -> Array:
        """The score a gate sweeps; the oracle knows the loss itself."""
        return -self.losses[loss] if gate == "oracle" else self.scores[gate]


def traces_of(rows: Rows, verifiers: Mapping[str, Verifier]) -> list[Traces]:
    """One `Traces` per sampling transform of `rows`. `verifiers`: name -> verifier of the rows' pair."""
    for name, verifier in verifiers.items():
        for part in ("draft", "target"):
            if getattr(verifier.record, f"{part}_fingerprint") != getattr(rows, f"{part}_fingerprint"):
                raise DataError(f"the verifier {name!r} was trained for another {part} than the rows: use one pair")
    everything = frozenset(rows.titles)
    return [_traces(rows, rows.places(everything, n), n, verifiers) for n in range(len(rows.transforms))]


def _traces(rows: Rows, places: Places, number: int, verifiers: Mapping[str, Verifier]) -> Traces:
    if len(places) == 0:
        raise DataError("the collection holds no row of one of its sampling transforms: collect anew")
    scores: dict[str, Array] = {}
    for name, verifier in verifiers.items():
        scores[name] = verifier.score_batch(rows.inputs(verifier.record.features, places)).astype(np.float64)
    scores["confidence"] = np.exp(rows.scalar("log_q_raw")[places].astype(float))
    scores["entropy"] = np.exp(-rows.scalar("entropy")[places].astype(float))
    scores["margin"] = rows.scalar("margin")[places].astype(float)
    distinct, prompt = np.unique(rows.prompt[places], return_inverse=True)
    labels = {name: rows.label(name)[places].astype(float) for name in ("accept", "typical", "own_atypical")}
    return Traces(
        transform_name(rows.transforms[number]), prompt.astype(np.int64), len(distinct), **labels, scores=scores
    )


class Sweep:
    """A score swept from vouching for nothing to vouching for all, under any weighting of the prompts."""

    def __init__(self, score: Array, loss: Array, prompt: Places) -> None:
        """All [rows]."""
        self._order = np.argsort(-score, kind="stable")
        self._loss = loss[self._order]
        self._prompt = prompt[self._order]

    def curve(self, weights: Array | None = None) -> tuple[Array, Array]:
        """(share vouched for, mean loss) after each row, [rows + 1], with prompts weighted by `weights` [prompts]."""
        own = np.ones(len(self._loss)) if weights is None else weights[self._prompt]
        total = own.sum()
        vouched = np.concatenate([[0.0], np.cumsum(own)]) / total
        return vouched, np.concatenate([[0.0], np.cumsum(own * self._loss)]) / total

    def calls_at(self, levels: Sequence[float], weights: Array | None = None) -> list[float]:
        """The smallest share of drafted tokens sent to the target at a mean loss of at most each level."""
        vouched, loss = self.curve(weights)
        return [1 - float(vouched[np.flatnonzero(loss <= level)[-1]]) for level in levels]


def frontier(traces: Traces, rng: np.random.Generator) -> dict[str, Any]:
    """Curves, calls at fixed losses, and score quality of every gate on one sampling transform; JSON types."""
    resamples = rng.multinomial(traces.num_prompts, np.full(traces.num_prompts, 1 / traces.num_prompts), _RESAMPLES)
    gates = ["oracle", *traces.scores]
    found: dict[str, Any] = {
        "sampling": traces.name,
        "rows": len(traces.accept),
        "prompts": traces.num_prompts,
        "alpha": float(traces.accept.mean()),
        "draft_typical": float(traces.typical.mean()),
        "own_atypical": float(traces.own_atypical.mean()),
        "limit": {f"{d:g}": max(0.0, 1 - float(traces.accept.mean()) - d) for d in TV_LEVELS},
        "gates": {gate: {"quality": _quality(traces, gate)} for gate in gates},
    }
    for loss, levels in (("tv", TV_LEVELS), ("atypical", ATYPICAL_LEVELS)):
        sampled: dict[str, Array] = {}
        for gate in gates:
            sweep = Sweep(traces.score_for(gate, loss), traces.losses[loss], traces.prompt)
            sampled[gate] = np.array([sweep.calls_at(levels, w.astype(float)) for w in resamples])  # [samples, levels]
            found["gates"][gate][loss] = {
                "curve": _thinned(sweep),
                "calls_at": _intervals(levels, sweep.calls_at(levels), sampled[gate]),
            }
        found[f"savings_{loss}"] = _savings(found, loss, levels, sampled)
    found["fixed"] = fixed_lengths(traces)
    return found


def _thinned(sweep: Sweep) -> dict[str, list[float]]:
    vouched, loss = sweep.curve()
    picked = np.unique(np.linspace(0, len(vouched) - 1, _CURVE_POINTS).astype(int))
    return {"calls": (1 - vouched[picked]).tolist(), "loss": loss[picked].tolist()}


def _intervals(levels: Sequence[float], values: Sequence[float], sampled: Array) -> dict[str, list[float]]:
    """level -> [value, 2.5 % point, 97.5 % point] of the bootstrap over prompts."""
    low, high = np.percentile(sampled, [2.5, 97.5], axis=0)
    return {f"{d:g}": [v, float(a), float(b)] for d, v, a, b in zip(levels, values, low, high, strict=True)}


def _savings(
    found: Mapping[str, Any], loss: str, levels: Sequence[float], sampled: Mapping[str, Array]
) -> dict[str, Any]:
    """Share of target calls each trained gate saves over the paper's head and over the best untrained gate."""
    table: dict[str, Any] = {}
    for column, level in enumerate(levels):
        key = f"{level:g}"
        calls = {gate: found["gates"][gate][loss]["calls_at"][key][0] for gate in sampled}
        best = min(UNTRAINED, key=lambda gate: calls[gate])
        for gate in (g for g in sampled if g not in UNTRAINED and g not in ("oracle", "paper")):
            for rival in [best, "paper"] if "paper" in calls else [best]:
                # The same resampled prompts for both, so that what they share cancels.
                ratio = 1 - sampled[gate][:, column] / np.maximum(sampled[rival][:, column], 1e-9)
                value = 1 - calls[gate] / max(calls[rival], 1e-9)
                low, high = (float(x) for x in np.percentile(ratio, [2.5, 97.5]))
                name = "untrained" if rival != "paper" else "paper"
                row = table.setdefault(gate, {}).setdefault(name, {})
                row[key] = {"rival": rival, "saved": [value, low, high]}
    return table


def _quality(traces: Traces, gate: str) -> dict[str, Any]:
    """How well a score ranks and predicts acceptance and typicality, with the reliability plot's points."""
    found: dict[str, Any] = {}
    for label in ("accept", "typical"):
        truth = getattr(traces, label)
        score = truth if gate == "oracle" else traces.scores[gate]
        mean_score, mean_label, count = reliability(score, truth)
        points = {"score": mean_score.tolist(), "label": mean_label.tolist(), "rows": count.tolist()}
        found[label] = {**measures(score, truth), "reliability": points}
    return found


def fixed_lengths(traces: Traces, longest: int = 20) -> list[dict[str, float]]:
    """Vouching for all but each n-th token of a prompt: what a gate that looks at nothing gives."""
    starts = np.r_[True, np.diff(traces.prompt) != 0]
    place = np.arange(len(traces.prompt)) - np.flatnonzero(starts)[np.cumsum(starts) - 1]
    table = []
    for length in range(1, longest + 1):
        vouched = (place + 1) % length != 0
        means = {name: float((vouched * loss).mean()) for name, loss in traces.losses.items()}
        table.append({"length": length, "calls": float((~vouched).mean()), **means})
    return table
