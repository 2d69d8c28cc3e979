"""What a generation looks like: text on stdout, tokens painted by origin, statistics, JSON."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sprinter import door
from sprinter.core.records import MEANINGS, AuditReport, Generation, Origin, Token
from sprinter.core.rows import ModelInfo

COLOURS: dict[Origin, str] = {
    "vouched": "\033[32m",
    "tested": "\033[36m",
    "resampled": "\033[31m",
    "bonus": "\033[33m",
    "target": "\033[0m",
}
RESET = "\033[0m"
DIM = "\033[2m"
UNDERLINE = "\033[4m"


class Writer:
    """Streams tokens to stdout, painted by origin if asked."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour
        # A model's output may hold escape sequences; a terminal would obey them.
        self._guard = sys.stdout.isatty() or colour

    def prompt(self, text: str) -> None:
        """Where colours tell them apart, what the text goes on from stands before it."""
        if self._colour:
            sys.stdout.write(f"{DIM}{printable(text)}{RESET}")

    def write(self, token: Token) -> None:
        text = printable(token.text) if self._guard else token.text
        mark = COLOURS[token.origin] + (UNDERLINE if token.source is not None else "")
        sys.stdout.write(f"{mark}{text}{RESET}" if self._colour and text else text)
        sys.stdout.flush()


def printable(text: str) -> str:
    """`text` with what a terminal would obey made visible."""
    return "".join(f"\\x{ord(c):02x}" if door.is_obeyed(c) else c for c in text)


def legend() -> str:
    """One line per colour."""
    lines = [f"{COLOURS[origin]}{origin:>9}{RESET}  {meaning}" for origin, meaning in MEANINGS.items()]
    return "\n".join([*lines, f"{UNDERLINE}underline{RESET}  copied from a reference"])


def models(infos: Sequence[ModelInfo]) -> str:
    """Which models ran on which backend in which number format, in one line."""
    return "; ".join(f"{info.name}: {info.backend}, {info.weights}, {info.device}" for info in infos)


def statistics(generation: Generation) -> str:
    """Speed, calls and loss in two or three lines."""
    counters = generation.counters
    first = "" if generation.first_token_s is None else f", first after {generation.first_token_s:.2f} s"
    lines = [
        f"{generation.num_tokens} tokens in {generation.seconds:.2f} s: {generation.tokens_per_s:.1f} tokens/s{first}",
        f"{counters.target_calls} target calls, {counters.draft_steps} draft steps; "
        f"{generation.unshown_share:.0%} of the tokens were final before the target saw them",
    ]
    if generation.method in ("lossless", "lookahead") and generation.lookahead is not None:
        cap = "without a cap" if generation.max_draft is None else f"at most {generation.max_draft} tokens"
        lines.append(f"drafted past doubts while the chance that all survive exceeds {generation.lookahead:g}, {cap}")
    if generation.audit is not None and generation.audit.tokens_audited:
        lines.append(_audit_line(generation.audit))
    if generation.audit is not None:
        lines += _budget_lines(generation.audit)
    return "\n".join(lines)


def copied(generation: Generation, references: Sequence[str]) -> list[str]:
    """A line for each stretch that was copied: how many tokens, and from where."""
    lines, before = [], ""
    stretches: list[tuple[str, int, str, str]] = []  # document, tokens, first and last place
    for token in generation.tokens:
        if token.source is None:
            before = ""
            continue
        document, _, place = token.source.partition(", characters ")
        first, _, behind = place.partition("-")
        if stretches and before == document:
            name, count, start, _ = stretches[-1]
            stretches[-1] = (name, count + 1, start, behind)
        else:
            stretches.append((document, 1, first, behind))
        before = document
    for document, count, first, behind in stretches:
        place = f", characters {first} to {behind}" if first else ""
        what = "1 token" if count == 1 else f"{count} tokens"
        lines.append(f"{what} copied from {_named(document, references)}{place}")
    return lines


def _named(document: str, references: Sequence[str]) -> str:
    number = document.removeprefix("reference ")
    return references[int(number) - 1] if number.isdigit() and int(number) <= len(references) else document


def _audit_line(audit: AuditReport) -> str:
    unseen = f", {audit.tokens_unaudited} unseen" if audit.tokens_unaudited else ""
    tv = "total variation to the target not known (this rule's tests are lossy)"
    if audit.mean_tv is not None:
        tv = (
            f"total variation to the target {audit.mean_tv:.3f} per token (at most {audit.tv_upper:.3f}, "
            f"{audit.confidence:.0%} confidence)"
        )
    return (
        f"audit of {audit.tokens_audited} tokens{unseen}: {tv}, atypical tokens {audit.mean_atypical:.1%} (at most "
        f"{audit.atypical_upper:.1%}, {audit.confidence:.0%} confidence)\n{_beyond_tokens(audit)}"
    )


def _beyond_tokens(audit: AuditReport) -> str:
    """What single tokens do not show."""
    excess = "" if audit.mean_excess is None else f", atypical tokens {audit.mean_excess:+.1%}"
    behind = -(audit.mean_deficit or 0.0)
    return (
        f"against the target's own: log-likelihood {behind:+.2f} a token{excess}; repeated 4-grams {audit.repeated:.0%}"
    )


def _budget_lines(audit: AuditReport) -> list[str]:
    """What the text was held to, and what it has used of it."""
    budget, open_ = audit.budget, audit.tokens_unaudited
    unseen = f", and at most {open_} more by {open_} unseen tokens" if open_ else ""
    told = (
        ("total variation to the target", budget.total_tv, audit.total_tv or 0.0),
        ("atypical tokens on the verifier's word", budget.atypical, float(audit.vouched_atypical)),
    )
    return [
        f"budget of this text: {what} at most {limit:g}; used {spent:.3g}{unseen}"
        for what, limit, spent in told
        if not math.isinf(limit)
    ]


def as_json(
    generation: Generation,
    certified: dict[str, Any] | None = None,
    infos: Sequence[ModelInfo] = (),
    references: Sequence[str] = (),
    rounds: Sequence[dict[str, Any]] | None = None,
) -> str:
    """The whole account as one JSON object; `certified` says which certificate it was decoded by."""
    more: dict[str, Any] = {"certificate": certified, "models": [_model(info) for info in infos]}
    if references:
        more["references"] = list(references)
    if rounds is not None:
        more["rounds"] = list(rounds)
    return door.as_json(account(generation) | more)


def _model(info: ModelInfo) -> dict[str, str]:
    return {name: getattr(info, name) for name in ("name", "fingerprint", "backend", "weights", "device")}


def _audit(audit: AuditReport) -> dict[str, Any]:
    limits = {name: None if math.isinf(value) else value for name, value in asdict(audit.budget).items()}
    return {**asdict(audit), "budget": {"max_total_tv": limits["total_tv"], "max_atypical_tokens": limits["atypical"]}}


def account(generation: Generation) -> dict[str, Any]:
    """Everything that is known of a generation, as JSON types."""
    threshold = generation.threshold
    return {
        "prompt": generation.prompt,
        "text": generation.text,
        "method": generation.method,
        # JSON has no infinity: null says that nobody was vouched for, or that there is no threshold.
        "threshold": threshold if threshold is not None and math.isfinite(threshold) else None,
        "lookahead": generation.lookahead,
        "max_draft": generation.max_draft,
        "num_tokens": generation.num_tokens,
        "seconds": generation.seconds,
        "tokens_per_s": generation.tokens_per_s,
        "first_token_s": generation.first_token_s,
        "finish_reason": generation.finish_reason,
        "num_prompt_tokens": generation.num_prompt_tokens,
        "target_calls": generation.counters.target_calls,
        "draft_steps": generation.counters.draft_steps,
        "counters": asdict(generation.counters),
        "seed": generation.seed,
        "audit": None if generation.audit is None else _audit(generation.audit),
        "tokens": [asdict(token) for token in generation.tokens],
    }
