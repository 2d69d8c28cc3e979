"""`sprinter frontier`: gates compared on unseen prompts, loss against target calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def frontier(
    data: Annotated[list[Path], typer.Option(help="Rows of unseen prompts, made by sprinter collect --policy draft.")],
    verifier: Annotated[str, typer.Option(help="Verifier folder, or 'default'.")] = "default",
    paper: Annotated[Path | None, typer.Option(help="Verifier trained with --preset paper, as the baseline.")] = None,
    large: Annotated[Path | None, typer.Option(help="A larger head, to show where the limit is.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the curves to this .png or .svg file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write everything to this JSON file.")] = None,
    costs: Annotated[
        str, typer.Option(help=r"Costs in target forwards: c=draft step\[,verifier=..,growth=..].")
    ] = "c=0.1,verifier=0.002",
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap over prompts.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Compare gates: what a share of target calls costs in quality.

    Gates: the oracle, the verifier's outputs, the paper's head, the draft's confidence, entropy and margin, fixed
    lengths, the risk budget, lookahead. Intervals are 95% by bootstrap over prompts.

    Example:

        sprinter collect --data texts.jsonl --buckets 8,9 --out unseen
        sprinter frontier --data unseen --verifier verifier --paper verifier-paper --plot frontier.png
    """
    import json

    from sprinter.bench.frontier_table import frontier_lines, goal_lines, goals, schedule_lines
    from sprinter.provenance import stamp

    settings = {"data": [d.name for d in data], "costs": costs}
    results = _results(data, _gates(verifier, paper, large), costs, seed)
    found = goals(results, "verifier accept", "verifier typical")
    report = {"results": results, "goals": [vars(g) for g in found], "record": stamp(settings, seed)}
    if out is not None:
        _write(out, json.dumps(report, indent=1) + "\n")
    if plot is not None:
        from sprinter.bench.gates_plot import plot_gates

        plot_gates(results, plot)
    if as_json:
        typer.echo(json.dumps(report))
        return
    for result in results:
        typer.echo("\n".join(frontier_lines(result) + schedule_lines(result)))
    typer.echo("\n".join(goal_lines(found)))


def _gates(verifier: str, paper: Path | None, large: Path | None) -> dict[str, Any]:
    """Name -> loaded verifier, one entry per output that judges acceptance or typicality."""
    from sprinter.gates.verifier import load_verifier
    from sprinter.zoo.default_pair import default_verifier

    folder = default_verifier() if verifier == "default" else Path(verifier)
    gates = {f"verifier {output}": load_verifier(folder, output) for output in ("accept", "typical")}
    if paper is not None:
        gates["paper"] = load_verifier(paper, "accept_hard")
    if large is not None:
        gates |= {f"large {output}": load_verifier(large, output) for output in ("accept", "typical")}
    return gates


def _results(data: list[Path], gates: dict[str, Any], costs: str, seed: int) -> list[dict[str, Any]]:
    import numpy as np

    from sprinter.bench.frontier import ATYPICAL_LEVELS, TV_LEVELS, traces_of
    from sprinter.bench.frontier import frontier as compare
    from sprinter.bench.schedules import budget_table, tuned
    from sprinter.learn.rows import load_rows
    from sprinter.theory.planner import parse_costs

    rows, rng, prices = load_rows(data), np.random.default_rng(seed), parse_costs(costs)
    results = []
    for traces in traces_of(rows, gates):
        result = compare(traces, rng)
        result["budgets"] = budget_table(traces, "verifier accept", prices)
        result["tuned"] = tuned(traces, "verifier accept", prices, "tv", TV_LEVELS)
        for gate in ("verifier accept", "verifier typical"):
            result["tuned"] += tuned(traces, gate, prices, "atypical", ATYPICAL_LEVELS)
        results.append(result)
    return results


def _write(file: Path, text: str) -> None:
    """Write beside, then rename."""
    from sprinter.errors import DataError

    beside = file.with_name(f".{file.name}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DataError(f"cannot write {file} ({error.strerror})") from error
