"""sprinter plan: would it pay, and with which setting?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sprinter.cli.options import PAIR, SAMPLING, Given, with_settings
from sprinter.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sprinter.bench.probe import Parts
    from sprinter.bench.thin import Thin
    from sprinter.theory.costs import Costs
    from sprinter.theory.planner import Plan
    from sprinter.theory.simulator import Rows

_NUM_PROMPTS = 20
_LEAST_LAYERS = 3  # the first and the last always stay
_NUM_THIN = 8  # of them, for drafts with blocks left out
# What still matters where the rows are a collection: who scores them, and which of its transforms is meant.
_SCORING = (
    "--verifier",
    "--scorer",
    "--temperature",
    "--top-k",
    "--top-p",
    "--min-p",
    "--repetition-penalty",
)


@with_settings(*PAIR, "scorer", *SAMPLING, "seed")
def plan(
    settings: Given,
    hypothetical: str | None = typer.Option(
        None,
        "--hypothetical",
        help="Plan with no models: c=..,alpha=..,auc=.. (draft step in target forwards, acceptance, verifier's AUC), "
        "and if wanted verifier=.. (its cost) and growth=.. (of a target forward by each further token).",
    ),
    costs: str | None = typer.Option(None, "--costs", help=r"With --data: c=..\[,verifier=..,growth=..]; no timing."),
    data: Path | None = typer.Option(
        None, "--data", help="Labelled rows (JSON lines: prompt, accept, score) or a folder of sprinter collect."
    ),
    max_tv: float = typer.Option(0.05, "--max-tv", help="Mean one-step total variation allowed per token."),
    max_draft: int = typer.Option(20, "--max-draft", help="Most tokens a draft may hold."),
    prompts: Path | None = typer.Option(
        None, "--prompts", help="Text file, one prompt a line: the first 20 are probed."
    ),
    probe_tokens: int = typer.Option(48, "--probe-tokens", help="Tokens probed after each prompt."),
    save_rows: Path | None = typer.Option(None, "--save-rows", help="Write the probe's labelled rows for --data."),
    plot: Path | None = typer.Option(None, "--plot", help="Write the frontier to this .png or .svg file."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Say which method and setting would pay for a pair, within a stated loss.

    Times the pair's parts here and probes 20 prompts, or works from labelled rows, or from three numbers. The answer
    holds for one sequence at a time on this machine.

    Examples:

      sprinter plan --hypothetical c=0.08,alpha=0.7,auc=0.85

      sprinter plan --max-tv 0.02 --save-rows rows.jsonl --plot frontier.svg

      sprinter plan --data rows.jsonl --costs c=0.1 --json
    """
    _refuse_idle(hypothetical, costs, data, prompts, save_rows, settings)
    # A probe takes a minute: what cannot be written is said before it.
    _check_outputs(plot, save_rows)
    if probe_tokens < 1:
        raise ConfigError(f"probe_tokens is {probe_tokens}, but at least 1 token must follow each prompt")

    from sprinter.cli import show_plan
    from sprinter.theory.candidates import Grid

    grid = Grid(max_draft=max_draft)
    if hypothetical is not None:
        from sprinter.theory.planner import parse_hypothetical, plan_hypothetical

        pair = parse_hypothetical(hypothetical)
        answer, cost, source = plan_hypothetical(pair, max_tv, grid), pair.costs, "hypothetical, " + hypothetical
        thin: list[Thin] = []
    else:
        answer, cost, source, thin = _from_rows(data, costs, prompts, probe_tokens, save_rows, max_tv, grid, settings)
    if plot is not None:
        from sprinter.bench.frontier_plot import plot_frontier

        plot_frontier(answer, plot)
    typer.echo((show_plan.as_json if as_json else show_plan.as_text)(answer, cost, source, thin))


def _refuse_idle(
    hypothetical: str | None,
    costs: str | None,
    data: Path | None,
    prompts: Path | None,
    save_rows: Path | None,
    given: Mapping[str, Any],
) -> None:
    """ConfigError for an option that would do nothing beside the others."""
    probing = {"--prompts": prompts, "--save-rows": save_rows}
    models = {f"--{key.replace('_', '-')}": value for key, value in given.items() if key != "seed"}
    if hypothetical is not None:
        idle = {"--data": data, "--costs": costs, **probing, **models, "--seed": given["seed"]}
        _refuse(idle, "--hypothetical, which needs no models and no rows")
    if data is not None:
        _refuse(probing, "--data, which replaces the probe")
    if costs is not None:
        if data is None:
            raise ConfigError("--costs needs --data: without rows use --hypothetical, which takes the costs as well")
        used = _SCORING if data.is_dir() else ()
        idle = {flag: value for flag, value in models.items() if flag not in used}
        _refuse(idle, "--data and --costs, which replace the models")


def _check_outputs(plot: Path | None, save_rows: Path | None) -> None:
    """ConfigError for a file that could not be written, before anything is measured."""
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise ConfigError(f"a plot is a .png or .svg file, not {plot.name!r}")
    for file in (plot, save_rows):
        if file is not None and not file.absolute().parent.is_dir():
            raise ConfigError(f"cannot write {file}: there is no folder {file.parent}")


def _refuse(idle: Mapping[str, object], beside: str) -> None:
    named = [flag for flag, value in idle.items() if value is not None]
    if named:
        raise ConfigError(f"{named[0]} does nothing beside {beside}")


def _from_rows(
    data: Path | None,
    costs: str | None,
    prompts: Path | None,
    probe_tokens: int,
    save_rows: Path | None,
    max_tv: float,
    grid: Any,
    given: Mapping[str, Any],
) -> tuple[Plan, Costs, str, list[Thin]]:
    """The plan from rows in a file or of a probe, with costs as given or as timed here."""
    import numpy as np

    from sprinter.theory.planner import parse_costs, plan_recorded

    traces = None if data is None else _read_rows(data, given)
    if data is not None and traces is not None and costs is not None:
        rng = np.random.default_rng(given["seed"] or 0)
        cost = parse_costs(costs)
        return plan_recorded(traces, cost, max_tv, rng, grid), cost, f"{_told(data)}; costs as given, {costs}", []
    traces, cost, thin, rng = _measure(traces, prompts, probe_tokens, given)
    if save_rows is not None:
        from sprinter.bench.labelled import write_labelled

        write_labelled(traces, save_rows)
    rows = f"{len(traces)} prompts probed here, contexts of policy exact" if data is None else _told(data)
    source = f"target {given['target'] or 'default'}, draft {given['draft'] or 'default'}; {rows}; costs timed here"
    return plan_recorded(traces, cost, max_tv, rng, grid), cost, source, thin


def _told(data: Path) -> str:
    """Which rows a plan is of, with a warning where decoding does not meet their contexts."""
    if not data.is_dir():
        return f"rows of {data}"
    from sprinter.bench.collected import warning_of, words_of

    for line in warning_of([data]):
        typer.echo(line, err=True)
    return f"rows of {words_of([data])}"


def _read_rows(data: Path, given: Mapping[str, Any]) -> list[Rows]:
    """Rows from a file of labelled rows, or from a collection, scored by the verifier."""
    from sprinter.bench.labelled import read_labelled

    if not data.is_dir():
        return read_labelled(data)
    from dataclasses import asdict

    from sprinter.bench.collected import read_collected
    from sprinter.build import locate_verifier
    from sprinter.config import make_config, survival_by
    from sprinter.gates.verifier import load_verifier
    from sprinter.learn.fit import transform_name

    config = make_config(None, {**given, "method": "sprinter"})
    scorer = config.decoding.scorer
    uses_verifier = config.decoding.uses_verifier
    verifier = load_verifier(locate_verifier(config.models), scorer) if uses_verifier else None
    survivor = None
    if verifier is not None and survival_by("lookahead", scorer) and "accept" in verifier.record.outputs:
        survivor = load_verifier(locate_verifier(config.models))
    return read_collected(data, scorer, verifier, transform_name(asdict(config.generation.sampling)), survivor)


def _measure(
    traces: list[Rows] | None, prompts: Path | None, probe_tokens: int, given: Mapping[str, Any]
) -> tuple[list[Rows], Costs, list[Thin], Any]:
    """Probe the prompts unless rows are at hand, and time the pair on them."""
    import numpy as np

    from sprinter.bench.probe import probe_rows
    from sprinter.bench.timing import time_pair

    texts = _read_prompts(prompts)
    parts, ids, seed = _open_pair(texts, given)
    rng = np.random.default_rng(seed)
    # The probe first: a processor that has rested is faster for some seconds than decoding will find it.
    if traces is None:
        typer.echo(f"probing {len(ids)} prompts, {probe_tokens} tokens each ...", err=True)
        traces = probe_rows(parts, ids, probe_tokens, seed)
    typer.echo("timing a draft step and the target at 1 to 32 tokens ...", err=True)
    cost = time_pair(parts, ids, seed)
    return traces, cost, _thin(parts, ids, cost), rng


def _thin(parts: Parts, ids: list[list[int]], cost: Costs) -> list[Thin]:
    """What drafts with blocks of the target left out would bring; none where no block can be left out."""
    if not parts.target.gives.blocks or parts.target.info.num_layers < _LEAST_LAYERS:
        return []
    from sprinter.bench.thin import greedy_texts, thin_drafts, time_blocks
    from sprinter.cache import cache_dir
    from sprinter.drafters.blocks import Memory

    typer.echo("timing the target less some of its blocks ...", err=True)
    texts = greedy_texts(parts.target, ids[:_NUM_THIN], parts.limits)
    if not texts:
        return []
    known = Memory(cache_dir(), parts.target.info).recall()
    return thin_drafts(parts.target, texts, time_blocks(parts.target, ids[0]), cost, known)


def _open_pair(texts: list[str], given: Mapping[str, Any]) -> tuple[Parts, list[list[int]], int]:
    from sprinter.bench.probe import open_parts
    from sprinter.build import Pair
    from sprinter.config import make_config

    config = make_config(None, {**given, "method": "sprinter"})
    pair = Pair(config.models)
    parts = open_parts(pair, config.decoding, config.generation.sampling)
    return parts, [pair.tokenizer.encode(text) for text in texts], config.generation.seed or 0


def _read_prompts(file: Path | None) -> list[str]:
    """The first 20 non-empty lines of a file, or the built-in openings."""
    if file is None:
        from sprinter.bench.probe_prompts import PROBE_PROMPTS

        return list(PROBE_PROMPTS)
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the prompts in {file}: {error}") from error
    if not lines:
        raise DataError(f"{file} holds no prompt: write one a line")
    return lines[:_NUM_PROMPTS]
