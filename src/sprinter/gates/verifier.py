"""The trained verifier: a linear layer or small MLP that predicts whether the target would accept a drafted token."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from sprinter.core.records import Draft, FloatArray
from sprinter.errors import BackendError, ConfigError, DataError
from sprinter.gates.compiled import compiled_score
from sprinter.gates.features import VECTORS, needs_of, vector
from sprinter.gates.verifier_file import layers_of, read_verifier_file

WEIGHTS_FILE = "verifier.safetensors"
RECORD_FILE = "verifier.json"


@dataclass(frozen=True)
class VerifierRecord:
    """What verifier.json says: how the head reads its input, and which pair it was trained for."""

    features: tuple[str, ...]
    outputs: tuple[str, ...]  # of OUTPUTS, one per row of the last layer
    num_layers: int
    draft_fingerprint: str
    target_fingerprint: str
    transforms: tuple[Mapping[str, Any], ...]  # sampling transforms of the training data
    default_threshold: float
    weights_sha256: str
    calibration: Mapping[str, Any] = field(default_factory=dict)  # output -> {"knots": [...], "values": [...]}
    metrics: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


class Verifier:
    """f(x, s) = calibrated sigmoid of a small network on features of the draft alone; costs O(inputs * width).

    One head may predict several things; `output` chooses the one that scores.
    """

    def __init__(self, layers: Sequence[tuple[FloatArray, FloatArray]], record: VerifierRecord, output: str) -> None:
        """`layers`: (weight [out, in], bias [out]) float32, ReLU between them."""
        if output not in record.outputs:
            raise ConfigError(f"this verifier does not predict {output!r}: it predicts {', '.join(record.outputs)}")
        *hidden, (last_weight, last_bias) = layers
        row = record.outputs.index(output)
        self._layers = list(hidden)
        self._last_weight = last_weight[row]  # [in]
        self._last_bias = float(last_bias[row])
        self.record = record
        self.output = output
        self.needs = needs_of(record.features)
        curve = record.calibration.get(output)
        self._split = _Split(record.features, layers[0]) if hidden and "embedding" in record.features else None
        self._knots = None if curve is None else np.asarray(curve["knots"], float)
        self._values = None if curve is None else np.asarray(curve["values"], float)
        scoring = [*hidden, (last_weight[row : row + 1], last_bias[row : row + 1])]
        curve_points = None if self._knots is None or self._values is None else (self._knots, self._values)
        self._compiled = compiled_score(record.features, scoring, curve_points)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of the calibration curve."""
        curves = json.dumps(dict(self.record.calibration), sort_keys=True)
        return hashlib.sha256(f"{self.record.weights_sha256} {curves}".encode()).hexdigest()

    def head(
        self,
    ) -> tuple[list[tuple[FloatArray, FloatArray]], tuple[FloatArray, float], tuple[FloatArray, FloatArray] | None]:
        """What another device needs to score alike: hidden layers (weight [out, in], bias [out]) with ReLU behind each,
        (weight [in], bias) of the output that scores, and (knots, values) of its calibration curve or None."""
        curve = None if self._knots is None or self._values is None else (self._knots, self._values)
        return list(self._layers), (self._last_weight, self._last_bias), curve

    def score(self, draft: Draft) -> float:
        if self._compiled is not None and (score := self._compiled.score(draft)) is not None:
            return score
        if self._split is None:
            return self.score_vector(vector(self.record.features, draft))
        return self._finish(np.maximum(self._split.first(draft), 0), self._layers[1:])

    def score_vector(self, inputs: FloatArray) -> float:
        """The score of one feature vector [inputs]."""
        return self._finish(inputs, self._layers)

    def _finish(self, inputs: FloatArray, layers: Sequence[tuple[FloatArray, FloatArray]]) -> float:
        """The score behind the hidden `layers` that are still to come."""
        for weight, bias in layers:
            inputs = np.maximum(weight @ inputs + bias, 0)
        logit = float(self._last_weight @ inputs) + self._last_bias
        score = 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
        if self._knots is not None and self._values is not None:
            score = float(np.interp(score, self._knots, self._values))
        return score

    def score_batch(self, inputs: FloatArray) -> FloatArray:
        """The scores [rows] of many feature vectors [rows, inputs]."""
        for weight, bias in self._layers:
            inputs = np.maximum(inputs @ weight.T + bias, 0)
        logits = np.clip(inputs @ self._last_weight + self._last_bias, -700, 700).astype(float)
        scores = 1 / (1 + np.exp(-logits))
        if self._knots is not None and self._values is not None:
            scores = np.interp(scores, self._knots, self._values)
        return np.asarray(scores)


class _Split:
    """The first layer in two parts: what a token's embedding adds is computed once per token and kept.

    A draft repeats its tokens, and an embedding is half of the inputs: this halves the work of a score.
    """

    def __init__(self, features: Sequence[str], layer: tuple[FloatArray, FloatArray]) -> None:
        """`layer`: (weight [out, inputs], bias [out])."""
        weight, self._bias = layer
        vectors = sum(name in VECTORS for name in features)
        width = (weight.shape[1] - (len(features) - vectors)) // vectors
        sizes = [width if name in VECTORS else 1 for name in features]
        starts = np.cumsum([0, *sizes])
        columns = {name: np.arange(a, a + n) for name, a, n in zip(features, starts, sizes, strict=False)}
        own = columns.pop("embedding")
        self._rest = tuple(columns)
        self._of_embedding = np.ascontiguousarray(weight[:, own])  # [out, hidden]
        self._of_rest = (
            np.ascontiguousarray(weight[:, np.concatenate(list(columns.values()))])
            if columns
            else np.zeros((len(weight), 0), np.float32)
        )
        self._known: dict[int, FloatArray] = {}  # token -> [out]; at most one entry per token of the vocabulary

    def first(self, draft: Draft) -> FloatArray:
        """The first layer's output before its ReLU for the newest token of `draft`, [out]."""
        proposal = draft.proposals[-1]
        known = self._known.get(proposal.token)
        if known is None:
            assert proposal.embedding is not None, "build.py compares capabilities before any model runs"
            known = self._known[proposal.token] = self._of_embedding @ proposal.embedding + self._bias
        return self._of_rest @ vector(self._rest, draft) + known if self._rest else known


def load_verifier(path: Path, output: str = "accept") -> Verifier:
    """Read a verifier folder. Raises BackendError when it is missing, damaged or malformed."""
    found = read_verifier_file(path / RECORD_FILE)
    told = {name: getattr(found, name) for name in VerifierRecord.__dataclass_fields__}
    record = VerifierRecord(**told)
    try:
        data = (path / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise BackendError(
            f"cannot read {path / WEIGHTS_FILE} ({error.strerror}): the verifier is incomplete"
        ) from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != record.weights_sha256:
        raise BackendError(
            f"{path / WEIGHTS_FILE} is damaged: its SHA-256 is {digest[:16]}..., {RECORD_FILE} says "
            f"{record.weights_sha256[:16]}...; copy it again or train it anew"
        )
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError) as error:
        raise BackendError(f"{path / WEIGHTS_FILE} does not fit {RECORD_FILE} ({error}): train it anew") from None
    layers = layers_of(tensors, found, path / WEIGHTS_FILE)
    if output == "accept" and "accept" not in record.outputs and "accept_hard" in record.outputs:
        output = "accept_hard"  # the paper's verifier: it predicts acceptance too, by a harder label
    return Verifier(layers, record, output)


def require_pair(verifier: Verifier, draft_fingerprint: str, target_fingerprint: str, path: Path) -> None:
    """DataError naming the part that differs, unless the verifier was trained for this pair."""
    trained = (("draft", verifier.record.draft_fingerprint), ("target", verifier.record.target_fingerprint))
    for (part, wanted), found in zip(trained, (draft_fingerprint, target_fingerprint), strict=True):
        if wanted != found:
            raise DataError(
                f"the verifier {path} was trained for {part} {wanted[:12]}, but this {part} is {found[:12]}: "
                "give the verifier of this pair, or make one with sprinter collect and sprinter train"
            )
