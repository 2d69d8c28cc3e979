"""`sprinter distill`: make a draft for a target that has no small sibling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from sprinter.learn.distill import DistillConfig, DistillEvents, DistillResult
    from sprinter.learn.trainer import Progress


def parse_layers(text: str) -> int | tuple[int, ...]:
    """ "4" is a count, "0,1,2,29" are indices; ConfigError on anything else."""
    from sprinter.errors import ConfigError

    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--layers {text!r} is neither a count (4) nor a list of indices (0,1,2,29)") from error
    return numbers[0] if len(numbers) == 1 and "," not in text else numbers


def distill(
    target: Annotated[str, typer.Option(help="Target: a model folder, a Hub id, or 'default'.")],
    data: Annotated[list[Path], typer.Option(help="JSON lines with 'text', optional 'title' and 'chat'. Repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder of the new draft.")],
    layers: Annotated[str, typer.Option(help="How many layers, or which of the target's: 0,1,2,29.")] = "4",
    feed_forward: Annotated[int | None, typer.Option(help="Neurons left per layer; default: all.")] = None,
    init: Annotated[Path | None, typer.Option(help="Go on from an earlier draft folder of this target.")] = None,
    head_tokens: Annotated[int, typer.Option(help="Head over the target's most frequent tokens; 0: all.")] = 0,
    new_tokens: Annotated[int, typer.Option(help="Tokens the target writes per prompt; 0: it reads the texts.")] = 80,
    max_entries: Annotated[int | None, typer.Option(help="Use at most so many training texts.")] = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 2000,
    batch_rows: Annotated[int, typer.Option(help="Rows of text per step.")] = 16,
    micro_rows: Annotated[int, typer.Option(help="Rows that run at once; divides --batch-rows.")] = 4,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    kl_weight: Annotated[float, typer.Option(help="Weight of KL(target || draft).")] = 1.0,
    tv_weight: Annotated[float, typer.Option(help="Weight of the total variation distance.")] = 1.0,
    feature_weight: Annotated[float, typer.Option(help="Weight of the hidden-state loss.")] = 0.3,
    judge_prompt: Annotated[
        bool, typer.Option(help="Learn from the prompts' tokens too, which the target reads anyway.")
    ] = True,
    precision: Annotated[
        str, typer.Option(help="Of matrix products: float32, bfloat16, or auto (bfloat16 where it is fast).")
    ] = "auto",
    int4_group: Annotated[int, typer.Option(help="Train through 4-bit rounding in groups of this size; 0: no.")] = 0,
    work: Annotated[Path | None, typer.Option(help="Folder for intermediate results. Default: OUT.work.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    workers: Annotated[int, typer.Option(help="Threads that each run a part of the batch.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of sampling and order.")] = 0,
) -> None:
    """Make a draft for a target that has none.

    Layers are cut out of the target and trained to give its law; embedding and output layer stay the target's, so only
    the draft's own layers are stored. Entries whose titles fall in the training buckets train, others are held out.
    Interrupted at any moment and started again, it goes on where it was.

    Examples:

      sprinter distill --target HuggingFaceTB/SmolLM2-135M-Instruct --data texts.jsonl --out my-draft

      sprinter distill --target ./model --data a.jsonl --data b.jsonl --layers 0,1,2,29 --head-tokens 8192 --out draft

      sprinter distill --target ./model --data texts.jsonl --new-tokens 0 --steps 500 --out draft   (read, do not write)
    """
    from sprinter.build import locate
    from sprinter.learn.distill import DistillConfig
    from sprinter.learn.distill import distill as run
    from sprinter.learn.trainer import TrainConfig

    train = TrainConfig(
        steps=steps,
        batch_rows=batch_rows,
        micro_rows=micro_rows,
        workers=workers,
        lr=lr,
        kl_weight=kl_weight,
        tv_weight=tv_weight,
        feature_weight=feature_weight,
        precision=precision,
        int4_group=int4_group,
        seed=seed,
    )
    config = DistillConfig(
        layers=parse_layers(layers),
        feed_forward=feed_forward,
        init=None if init is None else str(init),
        head_tokens=head_tokens or None,
        new_tokens=new_tokens,
        judge_prompt=judge_prompt,
        max_entries=max_entries,
        seed=seed,
        train=train,
    )
    folder = locate(target, "target")
    with _bar() as bar:
        result = run(folder, data, out, config, work, device, _events(bar, config))
    _report(result)


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    return Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))


def _events(bar: Bar, config: DistillConfig) -> DistillEvents:
    """Callbacks that move the bars."""
    from sprinter.learn.distill import DistillEvents

    tasks = {part: bar.add_task(f"target text ({part})", total=None) for part in ("train", "test")}
    training = bar.add_task("training", total=config.train.steps)

    def on_collect(part: str, done: int, total: int, tokens: int) -> None:
        bar.update(tasks[part], completed=done, total=total, description=f"target text ({part}): {tokens} tokens")

    def on_step(progress: Progress) -> None:
        numbers = f"loss {progress.loss:.3f} overlap {progress.overlap:.3f} agreement {progress.agreement:.3f}"
        bar.update(training, completed=progress.step, description=f"training: {numbers}")

    return DistillEvents(on_collect, on_step)


def _report(result: DistillResult) -> None:
    score = result.score
    typer.echo(
        f"{result.out}: {result.own_parameters:,} own parameters; head covers {result.head_coverage:.1%}; "
        f"held out: overlap {score.overlap:.3f}, greedy agreement {score.agreement:.3f} on {score.positions:,} tokens",
        err=True,
    )
