"""The frontier drawn: loss against target calls, and the reliability of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sprinter.errors import CapabilityError, ConfigError, DataError

_AXES: Final = {"tv": "mean delta", "atypical": "atypical tokens beyond the target's own"}
_STYLES: Final = {"oracle": ("black", "--"), "paper": ("tab:red", "-"), "confidence": ("tab:green", ":")}


def check_ending(file: Path) -> None:
    """ConfigError unless the file's name ends as a plot's does."""
    if file.suffix not in (".png", ".svg"):
        raise ConfigError(f"a plot is written as .png or .svg, not {file.suffix or file.name!r}")


def plot_gates(results: Sequence[Mapping[str, Any]], file: Path) -> None:
    """One row of three panels per sampling transform, as PNG or SVG by the file's name.

    Raises ConfigError for another ending, CapabilityError without matplotlib, DataError when it cannot be written.
    """
    check_ending(file)
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra

        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415
    except ImportError:
        raise CapabilityError("plots need matplotlib: pip install 'sprinter-decoding[plots]'") from None
    figure, axes = plt.subplots(len(results), 3, figsize=(15, 4.5 * len(results)), squeeze=False)
    for row, result in zip(axes, results, strict=True):
        _draw_losses(row[0], result, "tv")
        _draw_losses(row[1], result, "atypical")
        _draw_reliability(row[2], result)
    figure.tight_layout()
    beside = file.with_name(f".{file.name}.part")
    try:
        figure.savefig(beside, format=file.suffix[1:], dpi=110)
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DataError(f"cannot write {file} ({error.strerror})") from error
    finally:
        plt.close(figure)


def _draw_losses(panel: Any, result: Mapping[str, Any], loss: str) -> None:
    for gate, found in result["gates"].items():
        color, line = _STYLES.get(gate, (None, "-"))
        panel.plot(found[loss]["curve"]["calls"], found[loss]["curve"]["loss"], line, color=color, label=gate, lw=1.4)
    fixed = result["fixed"]
    panel.plot([f["calls"] for f in fixed], [f[loss] for f in fixed], "x", color="grey", label="fixed length", ms=4)
    if loss == "tv":
        rejected = 1 - result["alpha"]
        panel.plot([rejected, 0], [0, rejected], color="black", lw=0.8, label="limit 1 - alpha - delta")
    panel.set(xlabel="share of drafted tokens sent to the target", ylabel=_AXES[loss], xlim=(0, 1))
    panel.set_ylim(bottom=0)
    panel.set_title(f"{result['sampling']}: {result['prompts']} prompts, {result['rows']} tokens", fontsize=10)
    panel.legend(fontsize=7)


def _draw_reliability(panel: Any, result: Mapping[str, Any]) -> None:
    panel.plot([0, 1], [0, 1], color="grey", lw=0.8)
    for gate, found in result["gates"].items():
        if gate == "oracle":
            continue
        label = "typical" if "typical" in gate else "accept"
        points = found["quality"][label]["reliability"]
        ece = found["quality"][label]["ece"]
        panel.plot(points["score"], points["label"], "o-", ms=3, lw=1, label=f"{gate}, {label} (ECE {ece:.3f})")
    panel.set(xlabel="mean score", ylabel="share that holds", xlim=(0, 1), ylim=(0, 1))
    panel.set_title("reliability", fontsize=10)
    panel.legend(fontsize=7)
