"""Labelled rows to a verifier: split by entry, fitted, stopped early, calibrated, measured on unseen entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sprinter.core.rows import FloatArray
from sprinter.errors import ConfigError, DataError
from sprinter.gates.features import SCALARS, VECTORS, needs_of
from sprinter.gates.verifier_file import OUTPUTS
from sprinter.learn.metrics import measures
from sprinter.learn.rows import Rows
from sprinter.learn.splits import split_by_prompt

Layers = list[tuple[FloatArray, FloatArray]]  # (weight [out, in], bias [out]) float32
KNOTS: Final = 32
DEFAULT_DELTA: Final = 0.05  # mean delta that the default threshold aims at


@dataclass(frozen=True)
class FitSettings:
    """A head and the recipe that fits it."""

    features: tuple[str, ...]
    outputs: tuple[str, ...]
    widths: tuple[int, ...]  # of the hidden layers; none: a linear head
    lr: float
    epochs: int
    batch: int
    weight_decay: float = 0.0
    dropout: float = 0.0
    vector_share: float = 1.0  # scale of hidden state and embedding beside the scalars: below 1 they are learned slower
    patience: int | None = None  # epochs without a better validation loss before stopping; None: never
    keep: Literal["loss", "accuracy"] = "loss"  # which epoch is kept
    calibrated: bool = True
    negative_weight: float = 1.0  # of the part of a label that says no
    seed: int = 0

    def __post_init__(self) -> None:
        needs_of(self.features)
        strange = [o for o in self.outputs if o not in OUTPUTS]
        if strange or not self.outputs:
            raise ConfigError(f"unknown verifier output {strange or 'none'}: choose from {', '.join(OUTPUTS)}")
        if self.epochs < 1 or self.batch < 1 or self.lr <= 0 or self.negative_weight <= 0 or self.seed < 0:
            raise ConfigError("epochs and batch must be at least 1, lr and class weight above 0, seed at least 0")


# "paper" is the recipe of the code behind arXiv:2502.04557, but split by entry instead of by row.
# `since_target` and `previous_score` are left out of the default: they depend on the gate that collected the rows.
PRESETS: Final[Mapping[str, FitSettings]] = {
    "paper": FitSettings(
        ("hidden",), ("accept_hard",), (), lr=5e-4, epochs=20, batch=10, keep="accuracy", calibrated=False
    ),
    "default": FitSettings(
        (*VECTORS, *(s for s in SCALARS if s not in ("since_target", "previous_score"))),
        ("accept", "typical", "overlap"),
        (128,),
        lr=1e-3,
        epochs=10,
        batch=256,
        weight_decay=1e-2,
        dropout=0.3,
        vector_share=0.1,
        patience=3,
    ),
}


@dataclass(frozen=True)
class Sides:
    """Entries (titles) by what their rows may be used for; disjoint."""

    fit: frozenset[str]
    validation: frozenset[str]  # early stopping
    calibration: frozenset[str]
    test: frozenset[str]

    @classmethod
    def of(cls, titles: tuple[str, ...]) -> Sides:
        """About 65% fit, 10% validation, 12% calibration, 12% test. DataError for too few entries."""
        rest, test = split_by_prompt(titles, 0.125)
        rest, calibration = split_by_prompt(rest, 0.25)
        fit, validation = split_by_prompt(rest, 0.35)
        sides = cls(fit, validation, calibration, test)
        empty = [name for name, side in vars(sides).items() if not side]
        if empty:
            raise DataError(
                f"only {len(set(titles))} entries were collected, none of them for {empty[0]}: collect more prompts"
            )
        return sides


@dataclass(frozen=True)
class Fitted:
    """A fitted head with what was measured of it on entries it never saw."""

    settings: FitSettings
    layers: Layers
    calibration: dict[str, dict[str, list[float]]]
    default_threshold: float
    metrics: dict[str, Any]


def fit(rows: Rows, settings: FitSettings, on_epoch: Callable[[int, int], None] = lambda done, total: None) -> Fitted:
    """Fit a head on `rows`. The same rows, settings and machine give the same weights."""
    sides = Sides.of(rows.titles)
    parts = {name: rows.places(side) for name, side in vars(sides).items()}
    network, epochs = _optimise(rows, settings, parts["fit"], parts["validation"], on_epoch)
    layers = _layers(network)
    calibration = {}
    if settings.calibrated:
        raw = raw_scores(layers, rows.inputs(settings.features, parts["calibration"]))  # [rows, outputs]
        for column, output in enumerate(settings.outputs):
            calibration[output] = curve(raw[:, column], rows.label(output)[parts["calibration"]])
    fitted = Fitted(settings, layers, calibration, 0.5, {})
    if settings.calibrated:
        scores = scores_of(fitted, rows, parts["calibration"])[settings.outputs[0]]
        fitted = replace(
            fitted, default_threshold=threshold_at(scores, rows.label("accept")[parts["calibration"]], DEFAULT_DELTA)
        )
    return replace(fitted, metrics=_metrics(fitted, rows, sides, epochs))


def _optimise(
    rows: Rows,
    settings: FitSettings,
    fit_places: NDArray[np.int64],
    validation_places: NDArray[np.int64],
    on_epoch: Callable[[int, int], None],
) -> tuple[nn.Sequential, int]:
    """The network of the best epoch on the validation rows, and how many epochs ran."""
    inputs, labels = _tensors(rows, settings, fit_places)
    checked, checked_labels = _tensors(rows, settings, validation_places)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = _network(settings, inputs)
        optimiser = _optimiser(network, settings)
        best, best_state, waited = float("inf"), network.state_dict(), 0
        for epoch in range(settings.epochs):
            network.train()
            for batch in torch.split(torch.randperm(len(inputs)), settings.batch):
                loss = _loss(network(inputs[batch]), labels[batch], settings.negative_weight)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            network.eval()
            score = _validation(network, checked, checked_labels, settings)
            waited += 1
            if score < best:
                best, waited = score, 0
                best_state = {name: value.clone() for name, value in network.state_dict().items()}
            on_epoch(epoch + 1, settings.epochs)
            if settings.patience is not None and waited >= settings.patience:
                break
    network.load_state_dict(best_state)
    return network.eval(), epoch + 1


def _tensors(rows: Rows, settings: FitSettings, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """(inputs [rows, inputs], labels [rows, outputs])."""
    inputs = torch.from_numpy(rows.inputs(settings.features, places))
    return inputs, torch.from_numpy(np.stack([rows.label(o)[places] for o in settings.outputs], axis=1))


class _Standardise(nn.Module):
    """(x - mean) / std, fixed; folded into the first layer when the weights are saved."""

    def __init__(self, inputs: Tensor, settings: FitSettings) -> None:
        super().__init__()
        self.register_buffer("mean", inputs.mean(dim=0))  # [inputs]
        scale = torch.ones(inputs.shape[1])  # [inputs]
        for columns in vector_columns(settings.features, inputs.shape[1]).values():
            scale[columns] = settings.vector_share
        self.register_buffer("std", inputs.std(dim=0, correction=0).clamp_min(1e-3) / scale)  # [inputs]

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.std  # type: ignore[operator]


def vector_columns(features: tuple[str, ...], num_inputs: int) -> dict[str, slice]:
    """Where hidden state and embedding lie among the inputs."""
    vectors = sum(name in VECTORS for name in features)
    width = (num_inputs - (len(features) - vectors)) // vectors if vectors else 0
    found, start = {}, 0
    for name in features:
        stop = start + (width if name in VECTORS else 1)
        if name in VECTORS:
            found[name] = slice(start, stop)
        start = stop
    return found


def _network(settings: FitSettings, inputs: Tensor) -> nn.Sequential:
    # The paper's head reads the hidden state as it is.
    parts: list[nn.Module] = [_Standardise(inputs, settings)] if settings.widths else []
    width = inputs.shape[1]
    for hidden in settings.widths:
        parts += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(settings.dropout)]
        width = hidden
    return nn.Sequential(*parts, nn.Linear(width, len(settings.outputs)))


def _optimiser(network: nn.Sequential, settings: FitSettings) -> torch.optim.Optimizer:
    if settings.weight_decay:
        return torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.Adam(network.parameters(), lr=settings.lr)


def _loss(logits: Tensor, labels: Tensor, negative_weight: float) -> Tensor:
    """Cross entropy against labels in [0, 1]: proper, so its minimum is the label's conditional mean."""
    log_yes, log_no = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    return -(labels * log_yes + negative_weight * (1 - labels) * log_no).mean()


@torch.inference_mode()
def _validation(network: nn.Sequential, inputs: Tensor, labels: Tensor, settings: FitSettings) -> float:
    logits = network(inputs)
    if settings.keep == "accuracy":
        return -float(((logits >= 0) == (labels >= 0.5)).float().mean())
    return float(_loss(logits, labels, settings.negative_weight))


def _layers(network: nn.Sequential) -> Layers:
    """Weights and biases, the standardisation folded into the first layer."""
    layers = [(m.weight.detach().double(), m.bias.detach().double()) for m in network if isinstance(m, nn.Linear)]
    if isinstance(network[0], _Standardise):
        weight, bias = layers[0]
        scaled = weight / network[0].std.double()  # type: ignore[operator]
        layers[0] = (scaled, bias - scaled @ network[0].mean.double())  # type: ignore[operator]
    return [(w.float().numpy(), b.float().numpy()) for w, b in layers]


def raw_scores(layers: Layers, inputs: FloatArray) -> FloatArray:
    """Scores before calibration, [rows, outputs], of feature vectors [rows, inputs]."""
    *hidden, (last_weight, last_bias) = layers
    for weight, bias in hidden:
        inputs = np.maximum(inputs @ weight.T + bias, 0)
    return np.asarray(1 / (1 + np.exp(-np.clip(inputs @ last_weight.T + last_bias, -60, 60).astype(float))))


def scores_of(fitted: Fitted, rows: Rows, places: NDArray[np.int64]) -> dict[str, FloatArray]:
    """Calibrated scores of rows, one array [places] per output."""
    raw = raw_scores(fitted.layers, rows.inputs(fitted.settings.features, places))
    found = {}
    for column, output in enumerate(fitted.settings.outputs):
        own = fitted.calibration.get(output)
        found[output] = raw[:, column] if own is None else np.interp(raw[:, column], own["knots"], own["values"])
    return found


def curve(score: FloatArray, label: FloatArray) -> dict[str, list[float]]:
    """A rising piecewise-linear map of scores to mean labels: isotonic regression on bins of equally many rows.

    Zadrozny & Elkan 2002, Transforming classifier scores into accurate multiclass probability estimates. Strictly
    rising, so that no two scores become equal and the order of the rows stays.
    """
    from scipy.optimize import isotonic_regression  # noqa: PLC0415 - slow import

    order = np.argsort(score, kind="stable")
    bins = np.array_split(order, min(KNOTS, max(1, len(order) // 50)))
    knots = np.array([score[b].mean() for b in bins])
    means = np.array([label[b].mean() for b in bins])
    values = isotonic_regression(means, weights=[len(b) for b in bins]).x
    knots, first = np.unique(knots, return_index=True)
    values = np.clip(values[first], 1e-4, 1 - 1e-4) + 1e-7 * np.arange(len(first))
    return {"knots": [0.0, *knots.tolist(), 1.0], "values": [0.0, *values.tolist(), 1.0]}


def threshold_at(score: FloatArray, accept: FloatArray, delta: float) -> float:
    """The lowest threshold whose mean loss v (1 - a) over the rows stays within `delta`."""
    order = np.argsort(-score, kind="stable")
    loss = np.cumsum(1 - accept[order]) / len(order)
    last = int(np.searchsorted(loss, delta, side="right")) - 1
    return round(float(score[order[last]]), 4) if last >= 0 else 1.0


def _metrics(fitted: Fitted, rows: Rows, sides: Sides, epochs: int) -> dict[str, Any]:
    """Measures on the test entries, for each sampling transform and output."""
    found: dict[str, Any] = {
        "epochs": epochs,
        "rows": len(rows),
        "entries": {n: len(s) for n, s in vars(sides).items()},
    }
    for number, transform in enumerate(rows.transforms):
        places = rows.places(sides.test, number)
        scores = scores_of(fitted, rows, places)
        found[transform_name(transform)] = {o: measures(s, rows.label(o)[places]) for o, s in scores.items()}
    return found


def transform_name(transform: Mapping[str, Any]) -> str:
    """'greedy', 'T=1', 'T=0.7 top-p=0.9': a sampling transform for tables."""
    if transform["temperature"] == 0:
        return "greedy"
    name = f"T={transform['temperature']:g}"
    for key, idle in (("top_k", 0), ("top_p", 1), ("min_p", 0), ("repetition_penalty", 1)):
        if transform[key] != idle:
            name += f" {key.replace('_', '-')}={transform[key]:g}"
    return name


def describe_fit(settings: FitSettings) -> dict[str, Any]:
    """Settings as JSON types."""
    return asdict(settings)
