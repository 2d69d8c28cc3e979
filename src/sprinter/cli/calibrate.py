"""sprinter calibrate: prove, on prompts like those to come, how little a method loses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sprinter.cli.options import BUDGET, DECODING, PAIR, SAMPLING, Given, with_settings
from sprinter.config import make_config
from sprinter.errors import ConfigError

if TYPE_CHECKING:
    from sprinter.certify.certificate import Certificate
    from sprinter.certify.risks import Aim, Frame

DEFAULT_GRID = "0.99,0.97,0.95,0.92,0.88,0.84,0.8,0.75,0.7,0.6,0.5,0.4,0.3,0.2"
DEFAULT_TOKENS = 64


@with_settings(
    *PAIR,
    *(name for name in DECODING if name not in ("threshold", "budget")),
    *("max_new_tokens", *SAMPLING, "seed", *BUDGET),
)
def calibrate(
    settings: Given,
    data: Path = typer.Option(..., "--data", help="JSON lines with a 'text' each: its first 30% are the prompt."),
    out: Path = typer.Option(..., "--out", "-o", help="Certificate file to write."),
    max_tv: list[float] | None = typer.Option(None, "--max-tv", help="Level of mean total variation; repeatable."),
    max_atypical: list[float] | None = typer.Option(None, "--max-atypical", help="Level of the atypical rate."),
    max_other: list[str] | None = typer.Option(
        None, "--max", help="Other levels: excess=, deficit=, repeated= or rouge=LEVEL (docs/certificate.md)."
    ),
    copy_from: list[str] | None = typer.Option(
        None, "--copy-from", help="With a drafter that copies: a text or JSONL file, or - for each prompt itself."
    ),
    reference: str = typer.Option("text", help="ROUGE-L against the rest of the 'text', or the 'target' alone."),
    confidence: float = typer.Option(0.95, help="Probability with which each claim must hold."),
    bound: str = typer.Option("betting", help="p-value: betting or hoeffding-bentkus."),
    grid: str | None = typer.Option(
        None, help=rf"Thresholds from safe to fast, comma separated \[default: {DEFAULT_GRID}]."
    ),
    pilot: Path | None = typer.Option(None, help="Choose the grid by this certificate, made on other prompts."),
    chat: bool = typer.Option(False, "--chat", help="The texts are questions, put into the model's chat template."),
    shortest: int = typer.Option(8, help="Claims are about every text length from this many new tokens on.", min=1),
    prompts: int = typer.Option(300, help="Most prompts per threshold."),
    min_prompts: int = typer.Option(200, help="Fewest prompts at a threshold that ends up certified."),
    bucket: list[int] | None = typer.Option(None, help="Only entries whose title falls in this bucket, 0 to 9."),
    journal: Path | None = typer.Option(None, help=r"Where to keep single results \[default: beside --out]."),
) -> None:
    """Certify a method: the fastest threshold whose loss is proven to stay below a level.

    Thresholds are tried from safe to fast until every level has failed once, each on as many prompts as it takes to
    tell. One run serves all levels; interrupted, it goes on where it stopped. The certificate is used by sprinter
    generate --max-tv and --max-atypical. With --max-total-tv or --max-atypical-tokens every text is held to that
    limit, and the levels take fewer prompts to prove.

    Examples:

      sprinter calibrate --max-tv 0.05 --max-tv 0.1 --max-atypical 0.02 --data prompts.jsonl --out certificate.json

      sprinter calibrate --max-atypical 0.02 --scorer typical --method lookahead --data prompts.jsonl --out ahead.json
    """
    if copy_from:
        from sprinter.cli.references import read_references

        settings["references"] = read_references(copy_from)[1]
    settings["options"] = tuple(settings["options"] or ()) or None
    if settings["max_new_tokens"] is None:
        settings["max_new_tokens"] = DEFAULT_TOKENS
    wanted = [("tv", level) for level in max_tv or ()] + [("atypical", level) for level in max_atypical or ()]
    if reference not in ("text", "target"):
        raise ConfigError(f"reference is {reference!r}, but must be text or target")

    from sprinter.certify.calibrate import Plan
    from sprinter.certify.certificate import Certificate
    from sprinter.certify.risks import Aim, Frame
    from sprinter.cli import calibrating
    from sprinter.rouge import require_rouge

    aims = tuple(Aim(loss, level) for loss, level in wanted + [_level(text) for text in max_other or ()])
    alpha = round(1 - confidence, 12)
    if any(aim.loss == "rouge" for aim in aims):
        require_rouge()
    tried = None if pilot is None else Certificate.load(pilot)
    config = make_config(None, {**settings, "audit": "close"})
    written = config.generation
    frame = Frame.of(written.max_new_tokens, written.sampling, written.budget, shortest)
    thresholds = _thresholds(grid, tried, aims, prompts, alpha, frame)
    plan = Plan(thresholds, aims, prompts, min(min_prompts, prompts), alpha, bound, frame)
    source = calibrating.Source(data, bucket or [], chat, calibrating.parts_of(config))
    rows, told = calibrating.prompts_of(source, prompts, written.seed or 0)
    job = calibrating.Job(config, rows, chat, reference, journal or out.with_suffix(".journal.jsonl"), tried, told)
    certificate = calibrating.run(plan, job)
    calibrating.keep(certificate, out)
    typer.echo(calibrating.summary(certificate))


def _thresholds(
    grid: str | None, pilot: Certificate | None, aims: Sequence[Aim], prompts: int, alpha: float, frame: Frame
) -> tuple[float, ...]:
    if pilot is not None:
        if grid is not None:
            raise ConfigError("--grid and --pilot both choose the thresholds: give one of them")
        from sprinter.certify.grid import grid_from_pilot

        return grid_from_pilot(pilot, aims, prompts, alpha, frame)
    grid = grid or DEFAULT_GRID
    try:
        return tuple(float(part) for part in grid.split(","))
    except ValueError:
        raise ConfigError(f"the grid {grid!r} is not a list of numbers: write it like 0.9,0.8,0.7") from None


def _level(text: str) -> tuple[str, float]:
    loss, _, level = text.partition("=")
    try:
        return loss, float(level)
    except ValueError:
        raise ConfigError(f"--max {text!r} is not a loss and a level: write it like rouge=0.3") from None
