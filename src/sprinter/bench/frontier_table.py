"""The frontier as tables for the terminal and for documents, and whether stated goals are met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sprinter.bench.tables import aligned

_LOSSES: Final = {"tv": "delta", "atypical": "atypical beyond own"}


def text_lines(results: Sequence[Mapping[str, Any]], source: str, priced: str) -> list[str]:
    """All transforms for a terminal; `source` says which rows it is, `priced` where the costs are from."""
    lines = [f"rows:  {source}", f"costs: {priced}", ""]
    for result in results:
        lines += [
            f"{result['sampling']}: {result['rows']} drafted tokens of {result['prompts']} prompts, acceptance "
            f"{result['alpha']:.3f}",
            "",
        ]
        for loss, word in (("tv", "delta"), ("atypical", "atypical tokens beyond the target's own")):
            lines += [
                f"share of drafted tokens sent to the target at a mean {word} of at most",
                *_calls(result, loss),
                "",
            ]
        lines += _plain(schedule_lines(result))
    return lines


def _calls(result: Mapping[str, Any], loss: str) -> list[str]:
    levels = list(result["gates"]["oracle"][loss]["calls_at"])
    rows = [["gate", *levels, "AUC"]]
    for gate, found in result["gates"].items():
        auc = found["quality"]["accept" if loss == "tv" else "typical"]["auc"]
        rows.append([gate, *(_cell(found[loss]["calls_at"][level]) for level in levels), f"{auc:.3f}"])
    if loss == "tv":
        rows.append(["(no gate below)", *(f"{result['limit'][level]:.3f}" for level in levels), ""])
    return aligned(rows).splitlines()


def _plain(markdown: Sequence[str]) -> list[str]:
    """Markdown tables with an empty line after each, as aligned columns."""
    lines: list[str] = []
    rows: list[list[str]] = []
    for line in markdown:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line and set(line) - set("|-"):
            rows.append(cells)
        elif not line:
            lines += [*aligned(rows).splitlines(), ""]
            rows = []
    return lines


def frontier_lines(result: Mapping[str, Any]) -> list[str]:
    """One sampling transform's result as a Markdown table with its surroundings."""
    tv, atypical = (list(next(iter(result["gates"].values()))[loss]["calls_at"]) for loss in ("tv", "atypical"))
    lines = [
        f"### {result['sampling']}",
        "",
        f"{result['prompts']} prompts, {result['rows']} drafted tokens, alpha {result['alpha']:.3f}, drafted tokens "
        f"typical {result['draft_typical']:.3f}, the target's own atypical rate {result['own_atypical']:.3f}.",
        "",
        "| gate | "
        + " | ".join([f"calls at delta {d}" for d in tv] + [f"at atypical {d}" for d in atypical])
        + " | AUC accept | AUC typical | Brier | ECE |",
        "|---" * (len(tv) + len(atypical) + 5) + "|",
        "| *limit 1 - alpha - delta* | "
        + " | ".join([f"*{result['limit'][d]:.3f}*" for d in tv] + [""] * (len(atypical) + 4))
        + " |",
    ]
    for gate, found in result["gates"].items():
        cells = [_cell(found["tv"]["calls_at"][d]) for d in tv]
        cells += [_cell(found["atypical"]["calls_at"][d]) for d in atypical]
        quality = found["quality"]
        own = quality["typical" if "typical" in gate else "accept"]
        cells += [f"{quality['accept']['auc']:.3f}", f"{quality['typical']['auc']:.3f}"]
        cells += [f"{own['brier']:.3f}", f"{own['ece']:.3f}"]
        lines.append(f"| {gate} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def schedule_lines(result: Mapping[str, Any]) -> list[str]:
    """The budget gate beside the threshold gate, and the fastest settings within each loss."""
    lines: list[str] = []
    if result.get("budgets"):
        lines += [
            "| budget per 100 | delta | calls, budget | calls, threshold | speed-up, budget | speed-up, threshold |",
            "|---|---|---|---|---|---|",
        ]
        for b in result["budgets"]:
            lines.append(
                f"| {b['budget']:g} | {b['tv']:.3f} | {b['calls']:.3f} | {b['threshold_calls']:.3f} "
                f"| {b['speedup']:.2f} | {b['threshold_speedup']:.2f} |"
            )
        lines.append("")
    if result.get("tuned"):
        lines += ["| at most | scorer | sprinter | lookahead |", "|---|---|---|---|"]
        for row in result["tuned"]:
            cells = (_setting(row["sprinter"], False), _setting(row["lookahead"], True))
            lines.append(f"| {_LOSSES[row['loss']]} {row['level']:g} | {row['scorer']} | {cells[0]} | {cells[1]} |")
        lines.append("")
    return lines


def _cell(interval: Sequence[float]) -> str:
    value, low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _setting(found: Mapping[str, float] | None, ahead: bool) -> str:
    if found is None:
        return "none within it"
    bound = f", lookahead {found['lookahead']:g}" if ahead else ""
    return f"{found['speedup']:.2f}x (threshold {found['threshold']:.3f}{bound}, cap {found['max_draft']:g})"


@dataclass(frozen=True)
class Goal:
    """Something a verifier is meant to reach, and what it reached."""

    sampling: str
    text: str
    wanted: float
    found: float
    interval: tuple[float, float] | None
    met: bool


def goals(results: Sequence[Mapping[str, Any]], gate: str, typical_gate: str) -> list[Goal]:
    """The goals of docs/verifier.md for the verifier outputs `gate` and `typical_gate`."""
    found: list[Goal] = []
    for result in results:
        name = result["sampling"]
        for rival, wanted in (("paper", 0.25), ("untrained", 0.15)):
            for level in ("0.05", "0.1"):
                row = result["savings_tv"].get(gate, {}).get(rival, {}).get(level)
                if row is None:
                    continue
                value, low, high = row["saved"]
                text = f"calls saved over {row['rival']} at delta {level}"
                found.append(Goal(name, text, wanted, value, (low, high), value >= wanted))
        ece = result["gates"][gate]["quality"]["accept"]["ece"]
        found.append(Goal(name, "expected calibration error", 0.03, ece, None, ece <= 0.03))
        if name == "greedy":
            auc = result["gates"][typical_gate]["quality"]["typical"]["auc"]
            found.append(Goal(name, "AUC for typical", 0.85, auc, None, auc >= 0.85))
            value, low, high = result["gates"][gate]["tv"]["calls_at"]["0.1"]
            limit = result["limit"]["0.1"]
            ratio = value / limit if limit > 0 else float("inf")
            interval = (low / limit, high / limit) if limit > 0 else None
            found.append(Goal(name, "calls over the limit at delta 0.1", 1.5, ratio, interval, ratio <= 1.5))
    return found


def goal_lines(found: Sequence[Goal]) -> list[str]:
    """Goals as a Markdown table."""
    lines = ["| sampling | goal | wanted | found | 95% | met |", "|---|---|---|---|---|---|"]
    for goal in found:
        between = f"{goal.interval[0]:.3f} to {goal.interval[1]:.3f}" if goal.interval else ""
        word = "yes" if goal.met else "**no**"
        lines.append(f"| {goal.sampling} | {goal.text} | {goal.wanted:g} | {goal.found:.3f} | {between} | {word} |")
    return [*lines, ""]
