"""`sprinter frontier`: gates compared on unseen prompts, loss against target calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sprinter.cli.options import PAIR, Given, with_settings
from sprinter.errors import DataError

if TYPE_CHECKING:
    from sprinter.learn.rows import Rows
    from sprinter.theory.costs import Costs


@with_settings(*PAIR)
def frontier(
    settings: Given,
    data: Annotated[list[Path], typer.Option(help="Rows of unseen prompts, made by sprinter collect.")],
    paper: Annotated[Path | None, typer.Option(help="Verifier trained with --preset paper, as the baseline.")] = None,
    large: Annotated[Path | None, typer.Option(help="A larger head, to show where the limit is.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the curves to this .png or .svg file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write everything to this JSON file.")] = None,
    costs: Annotated[
        str | None,
        typer.Option(help=r"In target forwards, c=draft step\[,verifier=..,growth=..] \[default: the pair is timed]."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap over prompts.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Compare gates: what a share of target calls costs in quality.

    Gates: the oracle, the verifier's outputs, the paper's head, the draft's confidence, entropy and margin, fixed
    lengths, the risk budget, lookahead. Intervals are 95% by bootstrap over prompts. The pair is timed here for the
    predicted speed-ups, unless --costs tells what its parts cost.

    Example:

        sprinter collect --data texts.jsonl --buckets 8,9 --out unseen
        sprinter frontier --data unseen --verifier verifier --paper verifier-paper --plot frontier.png
    """
    import json

    from sprinter.bench.collected import warning_of, words_of
    from sprinter.bench.frontier_table import goals, text_lines
    from sprinter.bench.gates_plot import check_ending, plot_gates
    from sprinter.bench.schedules import compare_gates
    from sprinter.learn.rows import load_rows
    from sprinter.provenance import stamp
    from sprinter.writing import write_text

    if plot is not None:
        check_ending(plot)
    gates, rows, source = _gates(settings["verifier"] or "default", paper, large), load_rows(data), words_of(data)
    prices, priced = _costs(costs, settings, rows, seed)
    results = compare_gates(rows, gates, prices, seed)
    report = {
        "rows": source,
        "costs": priced,
        "results": results,
        "goals": [vars(g) for g in goals(results, "verifier accept", "verifier typical")],
        "record": stamp({"data": [d.name for d in data], "costs": costs}, seed),
    }
    if out is not None:
        try:
            write_text(out, json.dumps(report, indent=1) + "\n")
        except OSError as error:
            raise DataError(f"cannot write {out} ({error.strerror}): name another --out") from error
    if plot is not None:
        plot_gates(results, plot)
    for line in warning_of(data):
        typer.echo(line, err=True)
    typer.echo(json.dumps(report) if as_json else "\n".join(text_lines(results, source, priced)))


def _costs(given: str | None, settings: Given, rows: Rows, seed: int) -> tuple[Costs, str]:
    """What the parts cost, and in words where that is from."""
    from sprinter.theory.planner import parse_costs

    if given is not None:
        return parse_costs(given), f"as given, {given}"
    from sprinter.bench.probe import open_parts
    from sprinter.bench.probe_prompts import PROBE_PROMPTS
    from sprinter.bench.timing import time_pair
    from sprinter.build import Pair
    from sprinter.config import make_config
    from sprinter.core.sampling import Sampling

    config = make_config(None, {**settings, "method": "sprinter"})
    pair = Pair(config.models)
    for part, info in (("target", pair.target.info), ("draft", pair.draft.info)):
        if info.fingerprint != getattr(rows, f"{part}_fingerprint"):
            raise DataError(
                f"the rows are of another {part} than {info.name}: name their pair, so that it can be timed, or what "
                "its parts cost by --costs"
            )
    typer.echo("timing a draft step and the target at 1 to 32 tokens ...", err=True)
    parts = open_parts(pair, config.decoding, Sampling(**rows.transforms[0]))
    found = time_pair(parts, [pair.tokenizer.encode(text) for text in PROBE_PROMPTS], seed)
    told = (
        f"timed here, a draft step {found.ratio:.3f} and the verifier's word {found.verifier_s / found.target_s(1):.4f}"
    )
    return found, f"{told} of a target forward"


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
