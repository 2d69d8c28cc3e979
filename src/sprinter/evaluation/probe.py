"""What `sprinter plan` measures of a real pair: how long each part takes here, and (a, f) rows of a few prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from sprinter.build import Pair, build_gate, require_capabilities
from sprinter.config import DecodingConfig
from sprinter.decoding.audit import Audit
from sprinter.decoding.backends.base import Capabilities, LanguageModel
from sprinter.decoding.drafters.base import Drafter
from sprinter.decoding.drafters.model import ModelDrafter
from sprinter.decoding.engine import Engine, Limits
from sprinter.decoding.gates.base import Scorer
from sprinter.decoding.gates.threshold import ThresholdGate
from sprinter.decoding.rules.vouched import VouchedRule
from sprinter.errors import ConfigError, DataError
from sprinter.records import Counters, Draft, Law, Verdict
from sprinter.sampling import Dice, LazyLaws, Sampling, acceptance, residual
from sprinter.theory.costs import Costs, WidthCost
from sprinter.theory.simulator import Rows

WIDTHS = (1, 2, 3, 5, 9, 13, 21, 32)  # tokens


@dataclass(frozen=True, slots=True)
class Parts:
    """A target, a drafter and a verifier (or any scorer) under one sampling transform."""

    target: LanguageModel
    drafter: Drafter
    scorer: Scorer
    sampling: Sampling
    limits: Limits


def open_parts(pair: Pair, config: DecodingConfig, sampling: Sampling) -> Parts:
    """The parts of a pair for one of the methods with a scorer. Loads both models."""
    gate = build_gate(pair, config)
    assert isinstance(gate, ThresholdGate), "only methods with a scorer are probed"
    require_capabilities(pair.draft, gate.needs)
    limits = pair.limits(with_draft=True)
    return Parts(pair.target, ModelDrafter(pair.draft, sampling, limits.vocab_size), gate.scorer, sampling, limits)


class _ScoreAll:
    """Scores every drafted token and vouches for none; always the same length."""

    def __init__(self, scorer: Scorer, length: int) -> None:
        self.scorer = scorer
        self.length = length

    @property
    def needs(self) -> Capabilities:
        return self.scorer.needs

    def vouch(self, draft: Draft) -> tuple[float | None, bool]:
        return self.scorer.score(draft), False

    def keep_drafting(self, draft: Draft) -> bool:
        return len(draft) < self.length


class _Recorder:
    """Exact acceptance without a bonus token, noting (a, f) of every token up to the first failure."""

    def __init__(self) -> None:
        self.accept: list[float] = []
        self.score: list[float] = []

    def judge(self, draft: Draft, target_laws: Sequence[Law], dice: Dice) -> Verdict:
        for place, token in enumerate(draft.tokens):
            draft_law = draft.proposals[place].law
            chance = acceptance(token, target_laws[place], draft_law)
            self.accept.append(chance)
            self.score.append(float(draft.scores[place] or 0.0))
            if not dice.accept(chance):
                return Verdict(place, dice.draw(residual(target_laws[place], draft_law)), "resampled")
        # No bonus: it would fill a place nobody drafted for, and leave it without a row.
        return Verdict(len(draft), None, None)


def probe_rows(
    parts: Parts, prompts: Sequence[Sequence[int]], num_tokens: int, dice: Dice, draft: int = 8
) -> list[Rows]:
    """(a, f) of the drafted token at each of the first `num_tokens` places after every prompt.

    The text goes on as the target would write it (exact decoding), so the rows tell of prefixes with no error in
    them; a lossy method visits slightly worse ones.
    """
    traces = []
    for prompt in prompts:
        recorder = _Recorder()
        gate = _ScoreAll(parts.scorer, draft)
        engine = Engine(parts.target, parts.drafter, gate, recorder, parts.sampling, parts.limits)
        for _ in engine.start(prompt, num_tokens, dice, Audit()):
            pass
        traces.append(Rows(np.array(recorder.accept), np.clip(recorder.score, 0.0, 1.0)))
    if not traces:
        raise DataError("a probe needs at least one prompt")
    return traces


def time_pair(
    parts: Parts, prompt: Sequence[int], dice: Dice, widths: Sequence[int] = WIDTHS, repeats: int = 5
) -> Costs:
    """Median seconds of a draft step, a score, and a target call at each width with all that the engine does in it.

    A call counts the forward pass over `width` tokens not in the cache, the laws and tests of the vouched rule,
    and the audit; a draft step counts the draw. Each width is called once before it is timed, to warm up.
    """
    if not prompt or repeats < 1 or min(widths) < 1 or max(widths) < 3:
        raise ConfigError("timing needs a prompt, at least one repeat, and widths of at least 1, one of them 3 or more")
    draft, tokens = Draft(), list(prompt)
    draft_s: list[float] = []
    score_s: list[float] = []
    for _ in range(max(widths) - 1):
        started = perf_counter()
        draft.append(parts.drafter.propose(tokens, dice, Counters()))
        drafted = perf_counter()
        score = parts.scorer.score(draft)
        draft_s.append(drafted - started)
        score_s.append(perf_counter() - drafted)
        draft.settle(score, True)
        tokens.append(draft.tokens[-1])
    call_s = []
    for width in widths:
        calls = [
            _call_seconds(parts, draft, tokens[: len(prompt) + width - 1], width - 1, dice) for _ in range(repeats + 1)
        ]
        call_s.append(float(np.median(calls[1:])))
    # The first step reads the whole prompt, which is no draft step's cost.
    return Costs(float(np.median(draft_s[1:])), float(np.median(score_s[1:])), WidthCost(tuple(widths), tuple(call_s)))


def _call_seconds(parts: Parts, draft: Draft, tokens: Sequence[int], count: int, dice: Dice) -> float:
    """Seconds of a target call over the last `count` of `tokens`, judged and audited as the engine does."""
    pending = Draft(draft.tokens[:count], draft.proposals[:count], draft.scores[:count], [True] * count)
    if pending.vouched:
        pending.vouched[-1] = False
    started = perf_counter()
    logits = parts.target.forward(tokens, count + 1).logits[:, : parts.limits.vocab_size]
    laws = LazyLaws(parts.sampling, logits, tokens)
    verdict = VouchedRule().judge(pending, laws, dice) if count else Verdict(0, dice.draw(laws[0]), "bonus")
    Audit().observe(pending, verdict, laws, logits)
    return perf_counter() - started
