"""sprinter bench: methods against each other, speed and loss together."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sprinter.cli.options import PAIR, SAMPLING, Given, with_settings
from sprinter.config import make_config
from sprinter.errors import ConfigError

if TYPE_CHECKING:
    from sprinter.bench.bench import BenchConfig
    from sprinter.bench.journal import Results
    from sprinter.bench.judge import Endpoint
    from sprinter.bench.methods import Bench

DEFAULT_METHODS = "target,draft,exact,lossless,sprinter,lookahead,paper,confidence:0.8"
EXIT_INTERRUPTED = 130

bench_app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@bench_app.callback(invoke_without_command=True)
@with_settings(*PAIR, *SAMPLING)
def bench(
    ctx: typer.Context,
    settings: Given,
    data: str = typer.Option("sample", "--data", help="JSONL, text, CSV or Parquet file; a data set id; or 'sample'."),
    methods: str = typer.Option(DEFAULT_METHODS, "--methods", "-m", help="Methods, comma separated, as named above."),
    prompts: int = typer.Option(10, "--prompts", help="How many prompts."),
    max_new_tokens: int = typer.Option(64, "--max-new-tokens", "-n", help="Tokens to write per prompt."),
    out: Path = typer.Option(Path("bench"), "--out", "-o", help="Folder for records, results and report."),
    resume: bool = typer.Option(False, "--resume", help="Go on with the interrupted comparison in --out."),
    bucket: list[int] | None = typer.Option(None, help="Only entries whose title falls in this bucket, 0 to 9."),
    column: str = typer.Option("text", help="Column of a table that holds the texts."),
    warmup: int = typer.Option(2, help="Prompts that every method runs unmeasured before the first."),
    samples: int = typer.Option(4, help="Prompts whose texts the report shows token by token."),
    peer_weights: str = typer.Option("float32", help="Number format of transformers' own decoders."),
    certificate: Path | None = typer.Option(None, help=r"Certificate, or folder of them \[default: the shipped ones]."),
    confidence: float = typer.Option(0.95, help="Least confidence of a certified level."),
    reference: list[str] | None = typer.Option(
        None, help=r"File that methods which copy may copy from, or - for the prompt \[default: the prompt]."
    ),
    judge: str | None = typer.Option(None, help="Base URL of an OpenAI-compatible API that scores texts."),
    judge_model: str = typer.Option("", help="The judge's model."),
    judge_key: str = typer.Option("SPRINTER_JUDGE_KEY", help="Environment variable that holds the judge's key."),
    as_json: bool = typer.Option(False, "--json", help="Print results.json instead of a table."),
    seed: int = typer.Option(0, help="Seed of the choice and order of prompts and of all sampling."),
) -> None:
    """Compare methods on the same prompts: speed, cost and loss, with an HTML report.

    Methods: target; draft; exact (the best length of 1 to 8) or exact:K; lossless; sprinter:T and lookahead:T at a
    threshold, or at a certified level as in sprinter:tv=0.05 or lookahead:atypical=0.02; paper; confidence:T;
    bild:F+rollback=R (Big Little Decoder); every other method of sprinter generate by its name; hf, hf-assisted,
    hf-ensemble:W (transformers); llamacpp, llamacpp-draft:K. Further settings follow a :, joined by +, as in
    lookahead:0.4+scorer=typical+lookahead=0.2 or llma:copy_match=3.

    Ctrl-C keeps what is done; --resume goes on.

    Examples:

      sprinter bench

      sprinter bench --data texts.jsonl --methods target,exact,sprinter:0.7,hf-assisted --prompts 100 --out run

      sprinter bench compare run other-run
    """
    if ctx.invoked_subcommand is not None:
        return

    from sprinter.bench.bench import BenchConfig
    from sprinter.bench.methods import Bench
    from sprinter.build import Pair
    from sprinter.cli.references import read_references

    config = make_config(None, settings)
    asked = BenchConfig(data, methods, prompts, max_new_tokens, seed, tuple(bucket or ()), column, warmup, samples)
    shared = Bench(Pair(config.models), config.generation.sampling, certificate, confidence, peer_weights)
    if reference:
        shared = replace(shared, references=read_references(reference)[1])
    _run(asked, shared, out, resume, _endpoint(judge, judge_model, judge_key), as_json)


@bench_app.command("compare")
def compare(
    first: Path = typer.Argument(..., help="Folder of a comparison."),
    second: Path = typer.Argument(..., help="Folder of another."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of a table."),
) -> None:
    """What two comparisons say of the same methods: speed and loss of the second against the first."""
    import json

    from sprinter.bench import journal
    from sprinter.bench.summary import compare as side_by_side
    from sprinter.bench.tables import compare_table

    found = side_by_side(journal.read(first), journal.read(second))
    typer.echo(json.dumps(found) if as_json else compare_table(found))


def _endpoint(url: str | None, model: str, key: str) -> Endpoint | None:
    if url is None:
        return None
    if not model:
        raise ConfigError("--judge needs --judge-model: the name of the model that judges")
    from sprinter.bench.judge import Endpoint

    return Endpoint(url, model, os.environ.get(key))


def _run(asked: BenchConfig, shared: Bench, out: Path, resume: bool, endpoint: Endpoint | None, as_json: bool) -> None:
    from sprinter.bench.bench import run_bench

    interrupted = False
    try:
        with _Progress() as progress:
            run_bench(asked, shared, out, resume, progress.step)
        if endpoint is not None:
            _judge_all(out, endpoint)
    except KeyboardInterrupt:
        interrupted = True
    _finish(out, as_json, interrupted)
    if interrupted:
        typer.echo(f"sprinter: interrupted; --resume --out {out} goes on", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)


def _finish(out: Path, as_json: bool, interrupted: bool) -> None:
    """Write everything that can be told from the records; after an interrupt perhaps nothing can."""
    from sprinter.bench import journal

    if interrupted and not (out / journal.RECORDS_FILE).exists():
        return
    import json

    from sprinter.bench.report import write_outputs
    from sprinter.bench.tables import terminal_table
    from sprinter.rouge import MISSING

    summary, files = write_outputs(out)
    typer.echo(json.dumps(summary) if as_json else terminal_table(summary))
    for name, method in summary["methods"].items():
        if caveat := method["facts"].get("caveat"):
            typer.echo(f"{name}: {caveat}", err=True)
    if not summary["has_rouge"]:
        typer.echo(MISSING, err=True)
    typer.echo(f"written to {out}: {', '.join(files)}", err=True)


def _judge_all(out: Path, endpoint: Endpoint) -> None:
    """Ask the judge about every text beside the target's own; what the transcript holds is not asked again."""
    import numpy as np

    from sprinter.bench import journal
    from sprinter.bench.judge import TRANSCRIPT, judge, read_opinions, write_opinion

    results = journal.read(out)
    if "target" not in results.methods:
        raise ConfigError("a judge compares with the target's own texts: add target to --methods")
    rng = np.random.default_rng(results.run["asked"]["seed"])
    asked = {(opinion.prompt, opinion.method) for opinion in read_opinions(out / TRANSCRIPT)}
    pairs = list(_judged_pairs(results, asked))
    for number, (prompt, method, text, baseline) in enumerate(pairs, 1):
        opinion = judge(endpoint, prompt, (method, text), baseline, rng)
        write_opinion(out / TRANSCRIPT, opinion)
        typer.echo(f"judged {number} of {len(pairs)}: {method} {opinion.outcome or 'unanswered'}", err=True)


def _judged_pairs(results: Results, asked: set[tuple[str, str]]) -> Any:
    """(prompt, method, text, the target's text) of every pair that is not in `asked`."""
    by_method = {method: results.of(method) for method in results.methods}
    by_target = by_method.pop("target")
    for prompt in results.run["prompts"]:
        for method, records in by_method.items():
            record, baseline = records.get(prompt["id"]), by_target.get(prompt["id"])
            if record and baseline and (prompt["id"], method) not in asked:
                yield (prompt["id"], prompt["text"]), method, record["text"], baseline["text"]


class _Progress:
    """A live bar on stderr with the time left; without a terminal, a line now and then."""

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("warming up", total=None)
        self._failed = 0
        self._plain = not console.is_terminal
        self._said_s = 0.0
        self._began_s: float | None = None
        self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()

    def step(self, step: Any) -> None:
        """Show a finished run."""
        from time import monotonic

        self._failed += step.failed
        told = step.method + (f", {self._failed} failed" if self._failed else "")
        self._bar.update(self._task, completed=step.done, total=step.total, description=told)
        now = monotonic()
        if self._began_s is None:
            self._began_s, self._first = now, step.done
        elif self._plain and (now - self._said_s > 30 or step.done == step.total):
            self._said_s = now
            left_s = (now - self._began_s) / (step.done - self._first) * (step.total - step.done)
            typer.echo(f"{step.done} of {step.total} runs, about {left_s / 60:.0f} min left ({told})", err=True)
