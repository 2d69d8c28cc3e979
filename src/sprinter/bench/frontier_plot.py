"""A plan's frontier as a picture; needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from sprinter.errors import ConfigError
from sprinter.theory.planner import Plan


def plot_frontier(plan: Plan, file: Path) -> None:
    """Write loss against speed-up to a .png or .svg file. Raises ConfigError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise ConfigError(
            "a plot needs matplotlib: pip install 'sprinter-decoding[plots]', or leave --plot out"
        ) from None
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [o.loss for o in plan.frontier],
        [o.speedup for o in plan.frontier],
        drawstyle="steps-post",
        marker=".",
        label="fastest setting within a loss",
    )
    axes.axhline(plan.exact.speedup, linestyle="--", color="grey", label=plan.exact.candidate.describe())
    axes.plot([plan.best.loss], [plan.best.speedup], "o", color="black", label=plan.best.candidate.describe())
    axes.axvline(plan.max_tv, linestyle=":", color="grey", label=f"loss allowed, {plan.max_tv:g}")
    axes.set_xlabel("mean one-step total variation of an emitted token")
    axes.set_ylabel("speed-up over the target alone")
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=150)
