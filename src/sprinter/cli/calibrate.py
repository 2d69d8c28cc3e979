"""sprinter calibrate: prove, on prompts like those to come, how little a method loses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sprinter.cli.options import DECODING, PAIR, SAMPLING, Given, with_settings
from sprinter.config import make_config
from sprinter.errors import ConfigError

if TYPE_CHECKING:
    from sprinter.certify.calibrate import Aim, Plan, Progress
    from sprinter.certify.certificate import Certificate

DEFAULT_GRID = "0.99,0.97,0.95,0.92,0.88,0.84,0.8,0.75,0.7,0.6,0.5,0.4,0.3,0.2"
DEFAULT_TOKENS = 64


@with_settings(
    *PAIR, *(name for name in DECODING if name not in ("threshold", "budget")), "max_new_tokens", *SAMPLING, "seed"
)
def calibrate(
    settings: Given,
    data: Path = typer.Option(..., "--data", help="JSON lines with a 'text' each: its first 30% are the prompt."),
    out: Path = typer.Option(..., "--out", "-o", help="Certificate file to write."),
    max_tv: list[float] | None = typer.Option(None, "--max-tv", help="Level of mean total variation; repeatable."),
    max_atypical: list[float] | None = typer.Option(None, "--max-atypical", help="Level of the atypical rate."),
    max_other: list[str] | None = typer.Option(None, "--max", help="Other levels: excess=LEVEL or rouge=LEVEL."),
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
    prompts: int = typer.Option(300, help="Most prompts per threshold."),
    min_prompts: int = typer.Option(200, help="Fewest prompts at a threshold that ends up certified."),
    bucket: list[int] | None = typer.Option(None, help="Only entries whose title falls in this bucket, 0 to 9."),
    journal: Path | None = typer.Option(None, help=r"Where to keep single results \[default: beside --out]."),
) -> None:
    """Certify a method: the fastest threshold whose loss is proven to stay below a level.

    Thresholds are tried from safe to fast until every level has failed once, each on as many prompts as it takes to
    tell. One run serves all levels; interrupted, it goes on where it stopped. The certificate is used by sprinter
    generate --max-tv and --max-atypical.

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

    from sprinter.certify.calibrate import Aim, Plan
    from sprinter.certify.certificate import Certificate
    from sprinter.rouge import require_rouge

    aims = tuple(Aim(loss, level) for loss, level in wanted + [_level(text) for text in max_other or ()])
    alpha = round(1 - confidence, 12)
    if any(aim.loss == "rouge" for aim in aims):
        require_rouge()
    tried = None if pilot is None else Certificate.load(pilot)
    thresholds = _thresholds(grid, tried, aims, prompts, alpha)
    plan = Plan(thresholds, aims, prompts, min(min_prompts, prompts), alpha, bound)
    rows = _prompts(data, bucket or [], prompts, settings["seed"] or 0)
    certificate = _run(plan, rows, settings, reference, journal or out.with_suffix(".journal.jsonl"), tried)
    _keep(certificate, out)
    typer.echo(_summary(certificate))


def _thresholds(
    grid: str | None, pilot: Certificate | None, aims: Sequence[Aim], prompts: int, alpha: float
) -> tuple[float, ...]:
    if pilot is not None:
        if grid is not None:
            raise ConfigError("--grid and --pilot both choose the thresholds: give one of them")
        from sprinter.certify.grid import grid_from_pilot

        return grid_from_pilot(pilot, aims, prompts, alpha)
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


def _prompts(data: Path, buckets: list[int], count: int, seed: int) -> list[tuple[str, str]]:
    """`count` (prompt, reference) pairs, drawn without order: the proof needs them exchangeable."""
    import numpy as np

    from sprinter.learn.corpus import read_entries
    from sprinter.learn.splits import prompt_of, select

    entries = read_entries([data])
    if buckets:
        entries = select(entries, buckets, lambda entry: entry.title)
    if len(entries) < count:
        raise ConfigError(
            f"{data} has {len(entries)} usable texts, but --prompts is {count}: give more, or ask for fewer"
        )
    order = np.random.default_rng(seed).permutation(len(entries))[:count]
    return [prompt_of(entries[place].text) for place in order]


def _run(
    plan: Plan,
    rows: list[tuple[str, str]],
    given: Given,
    reference: str,
    kept: Path,
    pilot: Certificate | None,
) -> Certificate:
    import dataclasses
    import hashlib
    import json

    from sprinter.api import Sprinter
    from sprinter.build import Pair
    from sprinter.certify.calibrate import calibrate as run_plan
    from sprinter.certify.certificate import Certificate
    from sprinter.certify.choose import setting_of
    from sprinter.certify.journal import Measurements
    from sprinter.provenance import stamp

    config = make_config(None, {**given, "audit": "close"})
    sprinter = Sprinter(Pair(config.models))
    setting = setting_of(sprinter.pair, config.decoding, config.generation.sampling)
    data = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    if pilot is not None:
        from sprinter.certify.grid import require_pilot_of

        require_pilot_of(pilot, setting, data)
    made = stamp()
    run = {
        **dataclasses.asdict(setting),
        "data": data,
        "reference": reference if any(aim.loss == "rouge" for aim in plan.aims) else "",
        "max_new_tokens": config.generation.max_new_tokens,
        "seed": config.generation.seed or 0,
    }
    with Measurements(kept, run) as journal:
        measure = _Measure(sprinter, rows, config, run["reference"])
        table, claims = run_plan(plan, measure, journal, _show)
    return Certificate(
        setting=setting,
        confidence=round(1 - plan.alpha, 12),
        bound=plan.bound,
        num_prompts=plan.num_prompts,
        max_new_tokens=config.generation.max_new_tokens,
        data=data,
        grid=table,
        claims=claims,
        made={key: str(made[key]) for key in ("sprinter", "commit", "python", "packages", "processor", "made_at")}
        | ({} if pilot is None else {"grid": f"by a pilot on the prompts {pilot.data}"}),
    )


def _keep(certificate: Certificate, out: Path) -> None:
    """Write the certificate, unless it is there already: made again from the journal, only its date differs."""
    import dataclasses

    from sprinter.certify.certificate import Certificate
    from sprinter.errors import CertificateError

    with suppress(CertificateError):
        if dataclasses.replace(Certificate.load(out), made=certificate.made) == certificate:
            typer.echo(f"nothing to do: {out} is this calibration's certificate already", err=True)
            return
    certificate.save(out)
    typer.echo(f"written to {out}", err=True)


class _Measure:
    """Decodes prompts at one threshold in company, closes their audits, and says what was lost."""

    def __init__(self, sprinter: Any, rows: list[tuple[str, str]], config: Any, reference: str) -> None:
        self._sprinter, self._rows, self._config, self._reference = sprinter, rows, config, reference
        self._by_target: dict[int, str] = {}

    def __call__(self, threshold: float, places: Sequence[int]) -> Iterator[tuple[int, Any]]:
        from functools import partial

        from sprinter.certify.journal import Measurement
        from sprinter.certify.risks import losses_of
        from sprinter.errors import SprinterError

        texts = [partial(self._sprinter.start, self._rows[p][0], self._changed(threshold, p)) for p in places]
        for number, made in self._sprinter.in_company(texts, len(places)):
            if isinstance(made, SprinterError):
                raise made
            place = places[number]
            losses = losses_of(made, self._wanted(place))
            yield place, Measurement(losses, made.num_tokens, made.counters.target_calls)

    def _changed(self, threshold: float, place: int) -> Any:
        """The settings of one prompt. A seed of its own for each: one for all would make their chances the same."""
        import dataclasses

        config = self._config
        own = dataclasses.replace(config.generation, seed=(config.generation.seed or 0) * 1_000_003 + place)
        return dataclasses.replace(
            config, decoding=dataclasses.replace(config.decoding, threshold=threshold), generation=own
        )

    def _wanted(self, place: int) -> str | None:
        if not self._reference:
            return None
        if self._reference == "text":
            return self._rows[place][1]
        if place not in self._by_target:
            num = self._config.generation.max_new_tokens
            alone = self._sprinter.generate(self._rows[place][0], method="target", max_new_tokens=num)
            self._by_target[place] = alone.text
        return self._by_target[place]


def _show(now: Progress) -> None:
    bounds = "  ".join(f"{a.loss} {a.epsilon:g}: p {p:.3g}, below {now.uppers[a]:.4f}" for a, p in now.pvalues.items())
    typer.echo(f"threshold {now.threshold:g}  prompt {now.prompts_done}/{now.plan.num_prompts}  {bounds}", err=True)


def _summary(certificate: Certificate) -> str:
    lines = []
    for claim in certificate.claims:
        shown = "infeasible" if claim.threshold is None else f"{claim.threshold:g}"
        lines.append(f"{claim.loss} <= {claim.epsilon:g}: threshold {shown}. {certificate.statement(claim)}")
    return "\n".join(lines)
