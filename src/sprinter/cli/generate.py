"""sprinter generate: write a text."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from sprinter.cli.options import BUDGET, DECODING, PAIR, SAMPLING, Given, with_settings
from sprinter.config import Config, make_config
from sprinter.errors import ConfigError


@with_settings(
    *PAIR,
    *DECODING,
    *("max_new_tokens", *SAMPLING, "stop", "seed", *BUDGET, "audit"),
)
def generate(
    settings: Given,
    prompt: str | None = typer.Argument(None, help="What to go on from; read from stdin if left out."),
    chat: bool = typer.Option(False, "--chat", help="Put the prompt into the model's chat template."),
    color: bool = typer.Option(False, "--color", help="Paint each token by where it came from, behind the prompt."),
    explain: bool = typer.Option(
        False, "--explain", help="Show each draft as a tree: what the target said of every token, which path stood."
    ),
    as_json: bool = typer.Option(
        False, "--json", help="Print one JSON object instead of streaming text; with --file: keep every token's origin."
    ),
    file: Path | None = typer.Option(
        None, "--file", help="Write many texts: a prompt a line, or .jsonl with 'prompt' or 'messages' and settings."
    ),
    out: Path | None = typer.Option(None, "--out", help="With --file: where the texts go, one JSON object a line."),
    batch: int = typer.Option(16, "--batch", help="With --file: how many texts are written in company.", min=1),
    schedule: str = typer.Option(
        "faithful", "--schedule", help="With --file: faithful (company changes no text) or cheapest (docs/batch.md)."
    ),
    reference: list[str] | None = typer.Option(
        None, "--reference", help="With an llma method: a text or JSONL file to copy from, or - for the prompt itself."
    ),
    config: Path | None = typer.Option(None, "--config", help=r"TOML file with \[models], \[decoding], \[generation]."),
    max_tv: float | None = typer.Option(None, "--max-tv", help="Decode by a certificate of this mean total variation."),
    max_atypical: float | None = typer.Option(
        None, "--max-atypical", help="The same for the share of atypical tokens."
    ),
    max_excess: float | None = typer.Option(
        None, "--max-excess", help="The same for atypical tokens beyond the target's own rate."
    ),
    max_deficit: float | None = typer.Option(
        None, "--max-deficit", help="The same for log-likelihood behind the target's own, nats a token."
    ),
    max_repeated: float | None = typer.Option(
        None, "--max-repeated", help="The same for repeated 4-grams beyond the target's own text."
    ),
    confidence: float = typer.Option(0.95, help="Least confidence of the certificate."),
    certificate: Path | None = typer.Option(None, help=r"Certificate, or folder of them \[default: the shipped ones]."),
) -> None:
    """Write a text. The text goes to stdout, statistics to stderr.

    Most tokens come from a small draft model and stay on a trained verifier's word.
    The target model is called only where the verifier expects a rejection.
    Other methods: see --method.

    Examples:

      sprinter generate --color "A compiler is"

      sprinter generate --chat --temperature 0.7 --top-p 0.9 "Explain recursion in two sentences."

      sprinter generate --max-atypical 0.02 "A compiler is"

      echo "Once upon a time" | sprinter generate --method exact --json

      sprinter generate --file prompts.txt --out texts.jsonl
    """
    for name in ("stop", "options"):
        settings[name] = tuple(settings[name] or ()) or None
    named = [name for name, value in settings.items() if value is not None]
    levels = {"max_tv": max_tv, "max_atypical": max_atypical, "max_excess": max_excess, "max_deficit": max_deficit}
    wish = {**levels, "max_repeated": max_repeated, "confidence": confidence, "certificate": certificate}
    names: list[str] = []
    if reference:
        from sprinter.cli.references import read_references

        names, settings["references"] = read_references(reference)
    made = make_config(config, settings)
    if file is None and out is None:
        _write(_prompt(prompt), made, wish, named, _Look(chat, color, as_json, explain, names))
        return
    if file is None or out is None or prompt is not None or color or explain:
        raise ConfigError("many texts need --file and --out, and neither a prompt, --color nor --explain beside them")
    from sprinter.cli.many import Job, write_many

    code = write_many(Job(file, out, batch, chat, as_json, schedule), made, wish, named)
    if code:
        raise typer.Exit(code)


@dataclass(frozen=True)
class _Look:
    """How the prompt goes in and the text comes out."""

    chat: bool
    color: bool
    as_json: bool
    explain: bool
    references: list[str]  # names of the texts that may be copied from


def _write(text: str, settings: Config, wished: dict[str, Any], named: list[str], look: _Look) -> None:
    from rich.console import Console

    from sprinter.api import Sprinter
    from sprinter.build import Pair
    from sprinter.certify.choose import Wish
    from sprinter.cli import explain, show
    from sprinter.observers.story import Story

    wish = Wish(**wished)
    sprinter = Sprinter(Pair(settings.models))
    certified = None
    if wish.levels:
        settings, choice = sprinter.certified(settings, wish, named, look.chat)
        certified = choice.told()
        for line in (*choice.statements, *([choice.caveat] if choice.caveat else ())):
            typer.echo(line, err=True)
    story, tokenizer = Story(), sprinter.pair.tokenizer

    def spell(token: int) -> str:
        return str(tokenizer.fast.decode([token], skip_special_tokens=False))

    stream = sprinter.start(text, settings, look.chat, [story] if look.explain else ())
    if look.as_json:
        made, rounds = stream.generation, None
        if look.explain:
            rounds = explain.as_json(story.rounds, spell)
        typer.echo(show.as_json(made, certified, sprinter.running(settings), look.references, rounds))
        return
    if look.color:
        typer.echo(show.legend() + "\n", err=True)
    writer = show.Writer(look.color)
    writer.prompt(text)
    for token in stream:
        writer.write(token)
    typer.echo("")
    if look.explain:
        explain.tell(story.rounds, spell, Console(highlight=False))
    told = [show.statistics(stream.generation), *show.copied(stream.generation, look.references)]
    typer.echo("\n" + "\n".join([*told, show.models(sprinter.running(settings))]), err=True)


def _prompt(argument: str | None) -> str:
    """The prompt from the argument or stdin; ConfigError where there is neither."""
    if argument is not None:
        return argument
    if sys.stdin is None or sys.stdin.isatty():
        raise ConfigError('no prompt: write one, as in sprinter generate "A compiler is", or pipe one in')
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the prompt on stdin is not UTF-8 text (byte {error.start}): convert it first") from None
    return text.removesuffix("\n").removesuffix("\r")
