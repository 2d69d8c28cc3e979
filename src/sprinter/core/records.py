"""What leaves the loop: emitted tokens, counts, the audit's account, generations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

Origin = Literal["vouched", "tested", "resampled", "bonus", "target"]
PAINT: Final[Mapping[Origin, str]] = {  # the colours of the terminal, light enough to read on
    "vouched": "#c8f0cf",
    "tested": "#c9e6f5",
    "resampled": "#f8cfc9",
    "bonus": "#f6eab5",
    "target": "transparent",
}
MEANINGS: Final[Mapping[Origin, str]] = {
    "vouched": "drafted, kept on the verifier's word",
    "tested": "drafted, passed by the target",
    "resampled": "the target's, in place of a rejected draft",
    "bonus": "the target's, after a draft that stood",
    "target": "the target's own",
}
FinishReason = Literal["length", "eos", "stop", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Emitted:
    """A token the moment it is final. `score` is the verifier's, None where none was asked."""

    id: int
    origin: Origin
    score: float | None
    source: str | None = None  # where a copied token stands


@dataclass(frozen=True, slots=True)
class Token:
    """An emitted token with the text it adds; the texts of a generation concatenate to the whole."""

    id: int
    text: str
    origin: Origin
    score: float | None
    source: str | None = None


@dataclass(slots=True)
class Counters:
    """What a generation cost, counted from what really ran. Times in seconds."""

    target_calls: int = 0
    draft_steps: int = 0
    gate_steps: int = 0
    target_tokens: int = 0  # tokens the target computed, its prompt included
    draft_tokens: int = 0  # tokens the draft model computed, its prompt included
    target_s: float = 0.0
    draft_s: float = 0.0
    gate_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that one text may lose, whatever its verifier says; infinite where nothing was asked.

    A token a gate vouches for costs at most 1 of each. So a text that never has more vouched tokens pending than are
    left of its budget cannot exceed it: docs/theory.md, section 10.
    """

    total_tv: float = math.inf  # sum of d over the text
    atypical: float = math.inf  # vouched tokens the target finds atypical

    def left(self, total_tv: float, atypical: float) -> float:
        """How many tokens may be vouched for before the target is asked, with this much spent already."""
        rest = min(self.total_tv - total_tv, self.atypical - atypical)
        return rest if math.isinf(rest) else float(max(0, math.floor(rest)))


NO_BUDGET: Final = Budget()


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the approximation cost, from the target's own later passes (no extra calls unless closed).

    `mean_tv` averages d_t = v_t (1 - min(1, p/q)), an unbiased estimate of the one-step total variation, over the
    audited tokens; `mean_atypical` is the share of audited tokens with p(x) <= min(0.09, 0.3 exp(-H(p))), and
    `own_atypical` the share the target itself would have been expected to emit at the same positions. The
    upper bounds hold at every time together with the stated confidence; None where nothing was audited.
    """

    tokens_audited: int
    tokens_unaudited: int
    mean_tv: float | None
    mean_atypical: float | None
    own_atypical: float | None
    tv_upper: float | None
    atypical_upper: float | None
    confidence: float
    total_tv: float | None = None  # of the whole text: the sum of d over its audited tokens
    vouched_atypical: int = 0  # audited tokens that stood on a gate's word and that the target finds atypical
    budget: Budget = NO_BUDGET  # what the text was held to
    # Atypical tokens beyond the target's own at the same prefixes, a token; None where draft laws were not kept.
    mean_excess: float | None = None
    mean_deficit: float | None = None  # nats a token falls behind the target's own law in log-likelihood
    repeated: float = 0.0  # share of the text's 4-grams that it has had before


@dataclass(frozen=True, slots=True, repr=False)
class Generation:
    """A finished text with everything that was measured on the way."""

    prompt: str
    text: str
    method: str
    threshold: float | None
    tokens: tuple[Token, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    seconds: float
    first_token_s: float | None
    counters: Counters
    audit: AuditReport | None
    lookahead: float | None = None  # the gate's bound and cap; None for a method without
    max_draft: int | None = None
    seed: int = 0  # of all chance in it

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"<Generation {text!r}: {self.num_tokens} tokens by {self.method}, {self.tokens_per_s:.0f} tokens/s>"

    def _repr_html_(self) -> str:
        """The text with each token painted by its origin, for notebooks."""
        spans = (
            f'<span style="background:{PAINT[t.origin]}" title="{t.origin}">{escape(t.text)}</span>'
            for t in self.tokens
        )
        return f'<div style="white-space:pre-wrap">{escape(self.prompt)}{"".join(spans)}</div>'

    @property
    def unshown_share(self) -> float:
        """Share of tokens that were final before the target ever saw them."""
        return sum(t.origin == "vouched" for t in self.tokens) / max(1, self.num_tokens)
