"""`sprinter train`: labelled rows to a verifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sprinter.learn.fit import Fitted


def train(
    data: Annotated[list[Path], typer.Option(help="Folder made by sprinter collect; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Folder for the verifier.")],
    preset: Annotated[
        str, typer.Option(help="'default': small MLP on soft labels; 'paper': linear on the hidden state, hard labels.")
    ] = "default",
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Most passes over the rows; default: the preset's.")] = None,
    width: Annotated[int | None, typer.Option(help="Width of the hidden layer; 0: a linear head.")] = None,
    class_weight: Annotated[float, typer.Option(help="Weight of the part of a label that says no.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="Above 1: collect with the gate just trained, train on the union.")] = 1,
    prompts: Annotated[list[Path] | None, typer.Option(help="Prompts file of the further rounds.")] = None,
    buckets: Annotated[str, typer.Option(help="Splits of the prompts file, such as 6; 'all' for all.")] = "6",
    limit: Annotated[int, typer.Option(help="Most prompts per further round; 0: all.")] = 0,
    tokens: Annotated[int, typer.Option(help="Tokens per prompt of further rounds.")] = 48,
    temperature: Annotated[float, typer.Option(help="Temperature of further rounds; 0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Top-p of further rounds.")] = 1.0,
    target: Annotated[str, typer.Option(help="Target model of further rounds.")] = "default",
    draft: Annotated[str, typer.Option(help="Draft model of further rounds.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print the measures as JSON.")] = False,
) -> None:
    """Fit a verifier on collected rows and say how good it is on entries it never saw.

    Rows are split by entry. The folder gets verifier.safetensors and verifier.json, which names the pair it belongs to.

    Example:

        sprinter train --data rows --out verifier

        sprinter train --data rows --out verifier --rounds 3 --prompts texts.jsonl
    """
    import json
    from dataclasses import replace

    from sprinter.cli.collect import parse_buckets
    from sprinter.core.sampling import Sampling
    from sprinter.errors import ConfigError
    from sprinter.learn.fit import PRESETS
    from sprinter.learn.rows import load_rows
    from sprinter.learn.save import save_verifier

    if preset not in PRESETS:
        raise ConfigError(f"preset is {preset!r}, but must be one of {', '.join(PRESETS)}")
    settings = replace(PRESETS[preset], seed=seed, negative_weight=class_weight)
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    if width is not None:
        settings = replace(settings, widths=(width,) if width else ())
    with _bars() as bar:
        if rounds > 1:
            from sprinter.build import Pair
            from sprinter.config import make_config
            from sprinter.learn.collect import CollectSettings
            from sprinter.learn.prompts import read_prompts
            from sprinter.learn.rounds import train_rounds

            if not prompts:
                raise ConfigError("further rounds need prompts to collect on: give --prompts FILE")
            chosen = read_prompts(prompts, parse_buckets(buckets))
            chosen = sorted(chosen, key=lambda p: p.id)[: limit or None]
            pair = Pair(make_config(None, {"target": target, "draft": draft, "verifier": "none"}).models)
            collecting = CollectSettings("sprinter", tokens, (Sampling(temperature, top_p=top_p),), seed=seed)
            fitted = train_rounds(pair, chosen, data, out, settings, collecting, rounds, bar)
        else:
            from sprinter.learn.fit import fit

            rows = load_rows(data)
            fitted = fit(rows, settings, bar("epochs"))
            save_verifier(out, fitted, rows, {"collections": [folder.name for folder in data]})
    typer.echo(json.dumps(fitted.metrics) if as_json else table(fitted.metrics))
    typer.echo(f"verifier in {out}; default threshold {fitted.default_threshold:g}{_verdict(fitted)}", err=True)


def _verdict(fitted: Fitted) -> str:
    """What the default threshold means where it means nothing."""
    from sprinter.learn.fit import DEFAULT_DELTA

    if fitted.default_threshold < 1:
        return ""
    return (
        ": NO SPEED-UP, it vouches for nothing, since no lower one keeps the loss of vouching within "
        f"{DEFAULT_DELTA:g}; see sprinter frontier, or train a better draft"
    )


@contextmanager
def _bars() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress bars that appear one after the other."""
    from rich.console import Console
    from rich.progress import Progress

    with ExitStack() as stack:
        progress = stack.enter_context(Progress(console=Console(stderr=True)))

        def add(what: str) -> Callable[[int, int], None]:
            task = progress.add_task(what, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield add


def table(metrics: dict[str, Any]) -> str:
    """The measures on unseen entries as lines of text."""
    lines = [f"{'sampling':<18}{'output':<13}{'rows':>7}{'mean':>8}{'AUC':>8}{'avg.prec':>10}{'Brier':>8}{'ECE':>8}"]
    for transform, outputs in metrics.items():
        if not isinstance(outputs, dict) or transform == "entries":
            continue
        for output, m in outputs.items():
            lines.append(
                f"{transform:<18}{output:<13}{m['rows']:>7}{m['mean_label']:>8.3f}{m['auc']:>8.3f}"
                f"{m['average_precision']:>10.3f}{m['brier']:>8.3f}{m['ece']:>8.3f}"
            )
    return "\n".join(lines)
