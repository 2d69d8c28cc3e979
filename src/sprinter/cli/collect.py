"""`sprinter collect`: prompts to labelled rows for a verifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sprinter.core.sampling import Sampling


def collect(
    data: Annotated[list[Path], typer.Option(help="Prompts, one JSON object a line: {title?, text} or {prompt}.")],
    out: Annotated[Path, typer.Option(help="Folder for the rows; an unfinished collection there is gone on with.")],
    policy: Annotated[
        str, typer.Option(help="Who writes on: a method that drafts (sprinter needs a verifier), or paper.")
    ] = "exact",
    tokens: Annotated[int, typer.Option(help="Tokens drafted after each prompt.")] = 48,
    buckets: Annotated[str, typer.Option(help="Splits of the data to use, such as 6 or 8,9; 'all' for all.")] = "6",
    limit: Annotated[int, typer.Option(help="Most prompts, a fixed random choice; 0: all.")] = 0,
    temperature: Annotated[float, typer.Option(help="0 is greedy; 1 samples from the model's own law.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k most probable tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the most probable tokens up to this mass.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Keep tokens this times as probable as the most probable.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes tokens already seen less likely.")] = 1.0,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Judge a token drawn this way too at each context: TEMPERATURE or TEMPERATURE,TOP_P."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Prompts computed side by side.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of all chance.")] = 0,
    threshold: Annotated[float | None, typer.Option(help="Threshold of policy sprinter; default: its own.")] = None,
    target: Annotated[
        str, typer.Option(help="Target model: a folder, a .gguf file, a hub id, or 'default'.")
    ] = "default",
    draft: Annotated[str, typer.Option(help="Draft model: the same, or 'default'.")] = "default",
    verifier: Annotated[str, typer.Option(help="Verifier of policy sprinter.")] = "default",
    backend: Annotated[str, typer.Option(help="What computes the models: fast, hf (transformers), or auto.")] = "auto",
    weights: Annotated[str, typer.Option(help="Number format: auto, float32, bfloat16, int8 or int4.")] = "auto",
    device: Annotated[str, typer.Option(help="Device: cpu or cuda.")] = "cpu",
) -> None:
    """Continue prompts, and label every drafted token by the target.

    The contexts are those that decoding meets: the target's own with --policy exact, what a lossy method leads to with
    its name.

    The folder of rows is what sprinter train learns from. Killed at any moment and started again with the same
    command, it goes on where it stopped.

    Example:

        sprinter collect --data texts.jsonl --out rows --temperature 1 --also 0 --also 0.7,0.9
    """
    from sprinter.build import Pair
    from sprinter.cli.progress import progress_bar
    from sprinter.config import make_config
    from sprinter.core.sampling import Sampling
    from sprinter.errors import DataError
    from sprinter.learn.collect import CollectSettings
    from sprinter.learn.collect import collect as collect_rows
    from sprinter.learn.prompts import read_prompts
    from sprinter.learn.trained import unseen

    models = {"target": target, "draft": draft, "verifier": verifier}
    computed = {"backend": backend, "weights": weights, "device": device}
    pair = Pair(make_config(None, {**models, **computed}).models)
    first = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    settings = CollectSettings(
        policy,
        tokens,
        (first, *(parse_sampling(text) for text in also or [])),
        batch,
        seed,
        threshold,
    )
    prompts = read_prompts(data, parse_buckets(buckets))
    if (every := len(read_prompts(data))) > len(prompts):
        typer.echo(f"{len(prompts)} of {every} prompts are in buckets {buckets} (--buckets all takes all)", err=True)
    if limit:
        prompts = sorted(prompts, key=lambda p: p.id)[:limit]
    # In the contexts of its own training a draft is better than anywhere else.
    prompts, told = unseen(prompts, {"draft": pair.draft_path}, lambda prompt: (prompt.title, prompt.text))
    for line in told:
        typer.echo(line, err=True)
    if not prompts:
        raise DataError("every prompt trained the draft: give others, or other --buckets")
    gate = pair.verifier("accept") if policy == "sprinter" else None
    with progress_bar("prompts", len(prompts)) as advance:
        collect_rows(pair, prompts, out, settings, gate, advance)
    typer.echo(f"{len(prompts)} prompts in {out}", err=True)


def parse_buckets(text: str) -> list[int] | None:
    """'8,9' to [8, 9]; 'all' to None. Raises ConfigError."""
    from sprinter.errors import ConfigError

    if text == "all":
        return None
    try:
        buckets = [int(part) for part in text.split(",")]
    except ValueError:
        buckets = [-1]
    if not all(0 <= b <= 9 for b in buckets):
        raise ConfigError(f"buckets is {text!r}, but must be numbers from 0 to 9 with commas between, or 'all'")
    return buckets


def parse_sampling(text: str) -> Sampling:
    """'0.7,0.9' to temperature 0.7 and top-p 0.9. Raises ConfigError."""
    from sprinter.core.sampling import Sampling
    from sprinter.errors import ConfigError

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 2:
        raise ConfigError(f"{text!r} is not a sampling transform: write TEMPERATURE or TEMPERATURE,TOP_P")
    return Sampling(temperature=numbers[0], top_p=numbers[1] if len(numbers) == 2 else 1.0)
