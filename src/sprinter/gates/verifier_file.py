"""verifier.json and its layers: types, lengths and shapes compared before a score is computed with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from sprinter.core.rows import FloatArray
from sprinter.door import Door
from sprinter.errors import BackendError
from sprinter.gates.features import SCALARS, VECTORS

VERIFIER_FORMAT: Final = 1
OUTPUTS: Final = ("accept", "accept_hard", "overlap", "typical")
_DOOR: Final = Door(advice="copy it again or train it anew", strict=True)
_MOST_LAYERS: Final = 16
_MOST_WIDTH: Final = 1 << 16
_MOST_KNOTS: Final = 100_000
_Chance = Annotated[float, Meta(ge=0, le=1)]


class Curve(msgspec.Struct):
    """A calibration: scores and what they are worth, both ascending."""

    knots: Annotated[list[_Chance], Meta(min_length=1, max_length=_MOST_KNOTS)]
    values: Annotated[list[_Chance], Meta(min_length=1, max_length=_MOST_KNOTS)]


class VerifierFile(msgspec.Struct, forbid_unknown_fields=True):
    """What verifier.json says."""

    format: int
    features: Annotated[tuple[str, ...], Meta(min_length=1)]
    outputs: Annotated[tuple[str, ...], Meta(min_length=1)]
    num_layers: Annotated[int, Meta(ge=1, le=_MOST_LAYERS)]
    draft_fingerprint: str
    target_fingerprint: str
    transforms: tuple[dict[str, Any], ...]
    default_threshold: _Chance
    weights_sha256: str
    calibration: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    record: dict[str, Any] = {}


def read_verifier_file(file: Path) -> VerifierFile:
    """The record; BackendError, in one line, for anything that is not exactly one."""
    if not file.is_file():
        raise BackendError(f"no verifier at {file.parent} ({file.name} is missing): sprinter train makes one")
    if _DOOR.json(file, dict[str, Any]).get("format") != VERIFIER_FORMAT:
        raise BackendError(f"{file} is not a verifier of format {VERIFIER_FORMAT}: train it anew or update sprinter")
    found = _DOOR.json(file, VerifierFile)
    _require_known(file, "features", found.features, (*VECTORS, *SCALARS))
    _require_known(file, "outputs", found.outputs, OUTPUTS)
    for output, told in found.calibration.items():
        curve = _DOOR.as_kind(told, Curve, f"{file}, calibration of {output[:20]}")
        rising = all(a < b for a, b in itertools.pairwise(curve.knots))
        growing = all(a <= b for a, b in itertools.pairwise(curve.values))
        if len(curve.knots) != len(curve.values) or not rising or not growing:
            raise _DOOR.refuse(f"{file} has a calibration of {output[:20]} that is no rising curve")
    return found


def _require_known(file: Path, what: str, names: Sequence[str], known: Sequence[str]) -> None:
    strange = [name for name in names if name not in known]
    if strange or len(set(names)) != len(names):
        raise _DOOR.refuse(f"{file} has unknown or repeated {what} ({', '.join(strange or names)[:60]})")


def layers_of(
    tensors: Mapping[str, FloatArray], found: VerifierFile, path: Path
) -> list[tuple[FloatArray, FloatArray]]:
    """(weight [out, in], bias [out]) float32 of each layer; BackendError where they do not fit each other."""
    layers = []
    for i in range(found.num_layers):
        weight, bias = tensors.get(f"{i}.weight"), tensors.get(f"{i}.bias")
        if weight is None or bias is None:
            raise _DOOR.refuse(f"{path} has no layer {i}, its record tells of {found.num_layers}")
        layers.append((weight.astype("float32"), bias.astype("float32")))
    num_scalars = sum(name in SCALARS for name in found.features)
    num_vectors = len(found.features) - num_scalars
    width = None
    for i, (weight, bias) in enumerate(layers):
        fits = weight.ndim == 2 and bias.shape == weight.shape[:1] and 1 <= min(weight.shape) <= max(weight.shape)
        if not fits or max(weight.shape) > _MOST_WIDTH or (width is not None and weight.shape[1] != width):
            raise _DOOR.refuse(f"layer {i} of {path} has shapes that fit nothing: {weight.shape}, {bias.shape}")
        if not (math.isfinite(float(weight.sum())) and math.isfinite(float(bias.sum()))):
            raise _DOOR.refuse(f"layer {i} of {path} holds numbers that are none")
        width = weight.shape[0]
    inputs = layers[0][0].shape[1] - num_scalars
    if inputs < num_vectors or (num_vectors and inputs % num_vectors) or (not num_vectors and inputs):
        raise _DOOR.refuse(f"the first layer of {path} reads {inputs + num_scalars} inputs, which are not its features")
    if width != len(found.outputs):
        raise BackendError(f"{path} has {width} outputs, its record names {len(found.outputs)}: train it anew")
    return layers
