"""The trained verifier: a linear layer or small MLP that predicts whether the target would accept a drafted token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from sprinter.core.rows import FloatArray
from sprinter.core.text import Text
from sprinter.core.tree import Proposal
from sprinter.errors import BackendError, ConfigError, DataError
from sprinter.gates.compiled import compiled_score
from sprinter.gates.echo import Echo
from sprinter.gates.features import ECHOES, needs_of, scalars, vector
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
        self._hears_echoes = not set(ECHOES).isdisjoint(record.features)
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

    def score(self, text: Text, proposal: Proposal) -> float:
        """See `Scorer.score`."""
        tree = text.tree
        place = len(tree.scores)
        echo = (0, 0)
        if self._hears_echoes:
            echo = text.note(Echo, Echo).look(text.tokens, text.settled + place, proposal.token)
        numbers = scalars(proposal, place, tree.scores[-1] if place else 1.0, echo)
        if self._compiled is not None and (score := self._compiled.score(proposal, numbers)) is not None:
            return score
        return float(self.score_batch(vector(self.record.features, proposal, numbers)[None])[0])

    def score_batch(self, inputs: FloatArray) -> FloatArray:
        """The scores [rows] of many feature vectors [rows, inputs]."""
        for weight, bias in self._layers:
            inputs = np.maximum(inputs @ weight.T + bias, 0)
        logits = np.clip(inputs @ self._last_weight + self._last_bias, -700, 700).astype(float)
        scores = 1 / (1 + np.exp(-logits))
        if self._knots is not None and self._values is not None:
            scores = np.interp(scores, self._knots, self._values)
        return np.asarray(scores)


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
