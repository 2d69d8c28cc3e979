"""A calibration as the command runs it: prompts in, texts decoded in company, what it shows, the certificate out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import typer

from sprinter.api import Sprinter
from sprinter.build import Pair, locate_verifier
from sprinter.certify.asked import Asked, setting_of
from sprinter.certify.calibrate import Plan, Progress, Report, calibrate
from sprinter.certify.certificate import Certificate, Claim, prompt_hash
from sprinter.certify.grid import expected_calls, require_pilot_of
from sprinter.certify.journal import Measurement, Measurements
from sprinter.certify.risks import Aim, losses_of
from sprinter.config import Config, DecodingConfig
from sprinter.errors import CertificateError, ConfigError, SprinterError
from sprinter.learn.corpus import read_entries
from sprinter.learn.splits import prompt_of, select
from sprinter.learn.trained import unseen
from sprinter.provenance import stamp
from sprinter.streams import Stream

_OWN = 500_000_009  # apart from every seed of a calibration: the target's own text draws by other chance
_NO_GAIN = 0.97  # target calls per token from which a threshold is said to bring no speed

Row = tuple[str, str]  # prompt, reference


@dataclass(frozen=True)
class Job:
    """What is decoded, and how."""

    config: Config
    rows: list[Row]
    chat: bool
    reference: str  # of ROUGE: "text" or "target"
    journal: Path
    pilot: Certificate | None
    told: Sequence[str]  # about the prompts


@dataclass(frozen=True)
class Source:
    """Where prompts come from, and what must not be among them."""

    data: Path
    buckets: Sequence[int]
    chat: bool
    parts: Mapping[str, Path]  # what was trained, by name: texts that trained it are left out


def prompts_of(source: Source, count: int, seed: int) -> tuple[list[Row], list[str]]:
    """`count` different prompts in random order, and lines about those left out.

    The proof needs independent draws: no prompt twice, and no order.
    """
    entries = read_entries([source.data])
    if source.buckets:
        entries = select(entries, source.buckets, lambda entry: entry.title)
    entries, told = unseen(entries, source.parts, lambda entry: (entry.title, prompt_of(entry.text)[0]))
    rows = [(entry.text, "") if source.chat else prompt_of(entry.text) for entry in entries]
    different = list({prompt_hash(row[0]): row for row in rows}.values())
    if doubled := len(rows) - len(different):
        told.append(f"{doubled} of {len(rows)} prompts are there already, word for word: each is taken once")
    if len(different) < count:
        left_out = "".join(f" ({line})" for line in told if "of" in line.split()[:2])
        raise ConfigError(
            f"{source.data} has {len(different)} usable texts{left_out}, but --prompts is {count}: give more, or ask "
            "for fewer"
        )
    order = np.random.default_rng(seed).permutation(len(different))[:count]
    return [different[place] for place in order], told


def parts_of(config: Config) -> dict[str, Path]:
    """The folders of what was trained and takes part in decoding."""
    pair, parts = Pair(config.models), dict[str, Path]()
    if config.decoding.way.runs_draft:
        parts["draft"] = pair.draft_path
    if config.decoding.settled().reads_verifier:
        parts["verifier"] = locate_verifier(config.models)
    return parts


def run(plan: Plan, job: Job) -> Certificate:
    """Run the plan and make the certificate of it."""
    config, rows, frame = job.config, job.rows, plan.frame
    sprinter = Sprinter(Pair(config.models))
    setting = setting_of(sprinter.pair, config.decoding, Asked(config.generation.sampling, 0, frame.budget, job.chat))
    hashes = [prompt_hash(prompt) for prompt, _ in rows]
    if job.pilot is not None:
        require_pilot_of(job.pilot, setting, hashes)
    made, data = stamp(), hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    losses = {aim.loss for aim in plan.aims}
    reference = job.reference if "rouge" in losses else ""
    run = {
        **dataclasses.asdict(setting),
        **{name: getattr(plan, name) for name in ("thresholds", "num_prompts", "min_prompts", "alpha", "bound")},
        "aims": [f"{aim.loss} {aim.epsilon:g}" for aim in plan.aims],
        "data": data,
        "reference": reference,
        "max_new_tokens": frame.max_new_tokens,
        "shortest": frame.shortest,
        "seed": config.generation.seed or 0,
        "sprinter": made["sprinter"],
    }
    measure = _Measure(sprinter, job, reference, "repeated" in losses)
    with Measurements(job.journal, run) as journal, _shown(plan, len(journal), job.told) as show:
        table, claims = calibrate(plan, measure, journal, show)
    if job.pilot is not None:
        claims = [_with_pilot(claim, job.pilot, plan) for claim in claims]
    return Certificate(
        setting=setting,
        confidence=round(1 - plan.alpha, 12),
        bound=plan.bound,
        num_prompts=plan.num_prompts,
        max_new_tokens=frame.max_new_tokens,
        data=data,
        grid=table,
        claims=claims,
        made={key: str(made[key]) for key in ("sprinter", "commit", "python", "packages", "processor", "made_at")}
        | ({} if job.pilot is None else {"grid": f"by a pilot on the prompts {job.pilot.data}"}),
        shortest=frame.lengths[0],
        hashes=hashes,
    )


def keep(certificate: Certificate, out: Path) -> None:
    """Write the certificate, unless it is there already: made again from the journal, only its date differs."""
    with suppress(CertificateError):
        if dataclasses.replace(Certificate.load(out), made=certificate.made) == certificate:
            typer.echo(f"nothing to do: {out} is this calibration's certificate already", err=True)
            return
    certificate.save(out)
    typer.echo(f"written to {out}", err=True)


def summary(certificate: Certificate) -> str:
    """A line for each claim, with what it costs; a claim that brings no speed says so."""
    lines, calls = [], {row.threshold: row.calls_per_token for row in certificate.grid}
    for claim in certificate.claims:
        shown = "infeasible" if claim.threshold is None else f"{claim.threshold:g}"
        cost = "" if claim.threshold is None else f", {calls[claim.threshold]:.2f} target calls per token"
        if claim.threshold is not None and calls[claim.threshold] >= _NO_GAIN:
            cost += ": NO SPEED-UP, the target is asked about nearly every token"
        lines.append(f"{claim.loss} <= {claim.epsilon:g}: threshold {shown}{cost}. {certificate.statement(claim)}")
    return "\n".join(lines)


def _with_pilot(claim: Claim, pilot: Certificate, plan: Plan) -> Claim:
    calls = expected_calls(pilot, Aim(claim.loss, claim.epsilon), plan.num_prompts, plan.alpha, plan.frame)
    return dataclasses.replace(claim, pilot_calls=calls)


class _Measure:
    """Decodes prompts at one threshold in company, closes their audits, and says what was lost."""

    def __init__(self, sprinter: Sprinter, job: Job, reference: str, repeats: bool) -> None:
        self._sprinter, self._job, self._reference, self._repeats = sprinter, job, reference, repeats
        self._by_target: dict[int, tuple[str, list[int]]] = {}

    def __call__(self, threshold: float, places: Sequence[int]) -> Iterator[tuple[int, Measurement]]:
        streams: dict[int, Stream] = {}

        def begin(number: int) -> Stream:
            config = self._at(dataclasses.replace(self._job.config.decoding, threshold=threshold), places[number])
            streams[number] = self._sprinter.start(self._job.rows[places[number]][0], config, self._job.chat)
            return streams[number]

        if self._repeats or (self._reference == "target"):
            self._write_own(places)
        begun = [partial(begin, number) for number in range(len(places))]
        for number, made in self._sprinter.in_company(begun, len(places)):
            if isinstance(made, SprinterError):
                raise made
            place = places[number]
            own = self._by_target[place][1] if self._repeats else None
            losses = losses_of(made, streams.pop(number).audit, self._wanted(place), own)
            yield place, Measurement(losses, made.num_tokens, made.counters.target_calls)

    def _at(self, decoding: DecodingConfig, place: int, more: int = 0) -> Config:
        """The settings of one prompt. A seed of its own for each: one for all would make their chances the same."""
        config = self._job.config
        seed = (config.generation.seed or 0) * 1_000_003 + place + more
        own = dataclasses.replace(config.generation, seed=seed)
        return dataclasses.replace(config, decoding=decoding, generation=own)

    def _wanted(self, place: int) -> str | None:
        if not self._reference:
            return None
        return self._job.rows[place][1] if self._reference == "text" else self._by_target[place][0]

    def _write_own(self, places: Sequence[int]) -> None:
        """Keep (text, ids) of what the target alone writes on from these prompts, sampled alike."""
        missing = [place for place in places if place not in self._by_target]

        def begin(place: int) -> Stream:
            config = self._at(DecodingConfig(method="target"), place, _OWN)
            return self._sprinter.start(self._job.rows[place][0], config, self._job.chat)

        for number, made in self._sprinter.in_company([partial(begin, place) for place in missing], len(places)):
            if isinstance(made, SprinterError):
                raise made
            self._by_target[missing[number]] = made.text, [token.id for token in made.tokens]


@contextmanager
def _shown(plan: Plan, known: int, lines: Sequence[str]) -> Iterator[Report]:
    """What is told while it runs: how long it may take, then a bar, or lines where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    most, began = len(plan.thresholds) * plan.num_prompts, time.perf_counter()
    for line in lines:
        typer.echo(line, err=True)
    typer.echo(
        f"{len(plan.thresholds)} thresholds of up to {plan.num_prompts} prompts of {plan.frame.max_new_tokens} tokens"
        + (f"; {known} are measured already" if known else ""),
        err=True,
    )
    told = False
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=plan.num_prompts)

        def show(now: Progress) -> None:
            nonlocal told
            seconds = time.perf_counter() - began
            if not told and not known:
                least = seconds * plan.min_prompts / now.prompts_done
                longest = seconds * most / now.prompts_done
                typer.echo(f"it takes {_spell(least)} at least and {_spell(longest)} at most", err=True)
            told = True
            if bar.disable:
                line = f"threshold {now.threshold:g}  {_bounds(now)}"
                typer.echo(f"{line}  prompt {now.prompts_done}/{plan.num_prompts}", err=True)
                return
            proven = {aim.loss: upper for aim, upper in now.uppers.items()}
            line = f"at {now.threshold:g}: " + ", ".join(f"{loss} < {upper:.3f}" for loss, upper in proven.items())
            bar.update(task, description=line, completed=now.prompts_done)

        yield show


def _bounds(now: Progress) -> str:
    return "  ".join(f"{a.loss} {a.epsilon:g}: p {p:.2g}, below {now.uppers[a]:.4f}" for a, p in now.pvalues.items())


def _spell(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
