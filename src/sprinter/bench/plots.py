"""The report's main charts as PNG files; needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sprinter.bench.charts import short_name


def write_plots(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """Write frontier.png and latency.png where there is something to draw; the names of those written."""
    written = []
    for name, draw in (("frontier.png", _frontier), ("latency.png", _latency)):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        if draw(figure, summary):
            figure.savefig(folder / name, dpi=150)
            written.append(name)
    return written


def _frontier(figure: Figure, summary: Mapping[str, Any]) -> bool:
    axes = figure.add_subplot()
    drawn = 0
    for name, method in summary["methods"].items():
        found = method["against"].get("target")
        loss = method["excess_atypical"]
        if name == "draft" or found is None or loss is None:
            continue
        speed = found["speedup"]
        ends = (speed["value"] if speed[end] is None else speed[end] for end in ("low", "high"))
        spread = [[abs(speed["value"] - end)] for end in ends]
        axes.errorbar([100 * loss], [speed["value"]], yerr=spread, marker="o", capsize=2, label=_literal(name))
        drawn += 1
    axes.axhline(1, linestyle="--", color="grey", linewidth=0.8)
    axes.set_xlabel("atypical tokens beyond the target's own, %")
    axes.set_ylabel("speed-up over the target alone")
    if drawn:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return drawn > 0


def _latency(figure: Figure, summary: Mapping[str, Any]) -> bool:
    rows = [(name, method["quartiles_ms"]) for name, method in summary["methods"].items() if method["quartiles_ms"]]
    axes = figure.add_subplot()
    keys = ("whislo", "q1", "med", "q3", "whishi")
    stats = [{"label": _literal(name), **dict(zip(keys, values, strict=True))} for name, values in reversed(rows)]
    if stats:
        axes.bxp(stats, orientation="horizontal", showfliers=False)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds per token of a prompt")
    return bool(stats)


def _literal(name: str) -> str:
    """A short name that matplotlib takes neither for mathematics nor, by a leading underscore, for one to leave out."""
    return short_name(name).replace("$", r"\$").lstrip("_")
