"""What the parts of the loop hand to each other: laws, proposals, drafts, verdicts, generations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]

_FEW = 8  # tokens looked up one by one rather than in a table of the whole vocabulary

Origin = Literal["vouched", "tested", "resampled", "bonus", "target"]
FinishReason = Literal["length", "eos", "stop"]


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What a backend found out about rows of logits while they lay in its caches."""

    table: FloatArray  # [rows, 3] float64: place of the largest logit, logsumexp, entropy of softmax in nats

    def best(self, row: int) -> int:
        """Place of the largest logit, the first of equal ones."""
        return int(self.table[row, 0])

    def log_total(self, row: int) -> float:
        """log sum exp of the logits."""
        return float(self.table[row, 1])

    def entropy(self, row: int) -> float:
        """Entropy of softmax(logits), nats."""
        return float(self.table[row, 2])


@dataclass(frozen=True, slots=True)
class Law:
    """A next-token law by its support: `probs[i]` is the probability of token `ids[i]`.

    `ids` ascend; None means the tokens 0 .. len(probs) - 1. A greedy law has one entry, a nucleus few
    hundred: nothing needs a whole vocabulary where the law is zero on most of it.
    """

    probs: FloatArray  # [support], sums to 1
    ids: IntArray | None = None  # [support]

    def prob(self, token: int) -> float:
        """Probability of `token`; 0.0 outside the support."""
        if self.ids is None:
            return float(self.probs[token]) if token < len(self.probs) else 0.0
        if len(self.ids) == 1:
            return float(self.probs[0]) if self.ids[0] == token else 0.0
        place = int(self.ids.searchsorted(token))
        if place < len(self.ids) and self.ids[place] == token:
            return float(self.probs[place])
        return 0.0

    def at(self, tokens: IntArray | None, count: int) -> FloatArray:
        """Probabilities of `tokens` (None: of 0 .. count - 1), [count]."""
        if tokens is not None and len(tokens) <= _FEW:
            return np.array([self.prob(token) for token in tokens.tolist()], self.probs.dtype)
        dense = self.dense(count if tokens is None else max(count, int(tokens[-1]) + 1))
        return dense if tokens is None else dense[tokens]

    def dense(self, vocab_size: int) -> FloatArray:
        """The law over the whole vocabulary, [vocab_size] or longer if its support reaches further."""
        if self.ids is None:
            if len(self.probs) >= vocab_size:
                return self.probs
            return np.concatenate([self.probs, np.zeros(vocab_size - len(self.probs), self.probs.dtype)])
        full = np.zeros(max(vocab_size, int(self.ids[-1]) + 1), self.probs.dtype)  # [vocab]
        full[self.ids] = self.probs
        return full

    def token_at(self, place: int) -> int:
        """The token of support entry `place`."""
        return place if self.ids is None else int(self.ids[place])


@dataclass(frozen=True, slots=True)
class Proposal:
    """One drafted token and what the drafter knew when it drew it."""

    token: int
    law: Law  # after the sampling transform: what the token was drawn from
    logits: FloatArray  # [width], before the transform; empty where the drafter keeps them on its device
    ids: IntArray | None  # tokens the logits stand for, [width]; None for 0 .. width - 1
    hidden: FloatArray | None  # [hidden], at the position that predicts the token
    embedding: FloatArray | None  # [hidden], of the drafted token
    echo: tuple[int, int] = (0, 0)  # tokens of the longest ending that this token, or another one, followed before
    score: float | None = None  # the verifier's, where the drafter's device has computed it already


@dataclass(slots=True)
class Draft:
    """The tokens drafted since the last target call, with the gate's word on each."""

    tokens: list[int] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    vouched: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, proposal: Proposal) -> None:
        """Add a drafted token the gate has not judged yet."""
        self.tokens.append(proposal.token)
        self.proposals.append(proposal)

    def settle(self, score: float | None, vouched: bool) -> None:
        """Record the gate's word on the newest token."""
        self.scores.append(score)
        self.vouched.append(vouched)

    @property
    def all_vouched(self) -> bool:
        return all(self.vouched)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule lets stand: the first `num_kept` drafted tokens, then `next_token` if there is one."""

    num_kept: int
    next_token: int | None
    next_origin: Origin | None


@dataclass(frozen=True, slots=True)
class Emitted:
    """A token the moment it is final. `score` is the verifier's, None where none was asked."""

    id: int
    origin: Origin
    score: float | None


@dataclass(frozen=True, slots=True)
class Token:
    """An emitted token with the text it adds; the texts of a generation concatenate to the whole."""

    id: int
    text: str
    origin: Origin
    score: float | None


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


@dataclass(frozen=True, slots=True)
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

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def unshown_share(self) -> float:
        """Share of tokens that were final before the target ever saw them."""
        return sum(t.origin == "vouched" for t in self.tokens) / max(1, self.num_tokens)
