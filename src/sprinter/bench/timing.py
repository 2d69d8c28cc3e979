"""How long each part of a pair takes here, timed inside the very loop that decodes.

Timed alone, a part is too fast: a small draft stays in the processor's cache until a target call drives it out, and a
call is more than its forward pass. Timed between calls of quite another width, it is too slow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from sprinter.bench.probe import Parts
from sprinter.core.records import Counters, Draft, Law, Proposal, Verdict
from sprinter.core.sampling import Dice
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.models.base import Capabilities, LanguageModel
from sprinter.observers.audit import Audit
from sprinter.rules.vouched import VouchedRule
from sprinter.theory.costs import Costs, WidthCost

WIDTHS = (1, 2, 3, 4, 5, 7, 9, 13, 21, 32)  # tokens
_ROUNDS = 10  # of one width in a row; half of them where it is above 10
_WARM = 2  # rounds left out: the first reads the prompt, the second warms up


@dataclass(slots=True)
class Round:
    """One timed round of the loop."""

    length: int  # drafted tokens
    seconds: float = 0.0
    steps_s: list[float] = field(default_factory=list)
    scores_s: list[float] = field(default_factory=list)
    emitted: int = 0  # tokens the target's call let stand or added

    def call_s(self, step_s: float) -> float:
        """What is left for the target's call and all around it. The first step counts as a usual one (`step_s`).

        So what it costs more, for its cold weights and the token after a bonus, is the round's.
        """
        first = step_s if self.steps_s else 0.0
        return self.seconds - sum(self.steps_s[1:]) - sum(self.scores_s) - first


class _Paced:
    """Gate, drafter and rule of a timed run: each round drafts the length it is told, and the clock is read between."""

    def __init__(self, parts: Parts, lengths: Iterable[int]) -> None:
        self.rounds: list[Round] = []
        self.finished = False
        self._parts, self._lengths = parts, iter(lengths)
        self._rule = VouchedRule()
        self._began_s = 0.0

    @property
    def needs(self) -> Capabilities:
        return self._parts.scorer.needs

    def keep_drafting(self, draft: Draft) -> bool:
        if not draft.tokens:
            self._begin()
        return not self.finished and len(draft) < self.rounds[-1].length

    def _begin(self) -> None:
        now = perf_counter()
        if self.rounds:
            self.rounds[-1].seconds = now - self._began_s
        length = next(self._lengths, None)
        self.finished = length is None
        if length is not None:
            self.rounds.append(Round(length))
        self._began_s = perf_counter()

    def propose(self, tokens: Sequence[int], dice: Dice, counters: Counters) -> Proposal:
        started = perf_counter()
        proposal = self._parts.drafter.propose(tokens, dice, counters)
        self.rounds[-1].steps_s.append(perf_counter() - started)
        return proposal

    def vouch(self, draft: Draft) -> tuple[float | None, bool]:
        started = perf_counter()
        score = self._parts.scorer.score(draft)
        self.rounds[-1].scores_s.append(perf_counter() - started)
        # Every other round is like SPRINTER's, whose last token alone is tested; the others are like exact decoding's.
        return score, len(self.rounds) % 2 == 0 and len(draft) < self.rounds[-1].length

    def judge(self, draft: Draft, target_laws: Sequence[Law], dice: Dice) -> Verdict:
        verdict = self._rule.judge(draft, target_laws, dice)
        if not self.finished:
            self.rounds[-1].emitted = verdict.num_kept + (verdict.next_token is not None)
        return verdict


def time_pair(
    parts: Parts, prompts: Sequence[Sequence[int]], dice: Dice, widths: Sequence[int] = WIDTHS, repeats: int = 3
) -> Costs:
    """Seconds of a draft step, a score, a target call by width, an emitted token, and of reading a prompt.

    For each width the engine decodes a few rounds in a row, testing all drafted tokens in every other round and the
    last one alone in those between, so that calls of one width let unlike numbers of tokens stand: what a further
    token costs (its law, the audit) is the common slope, what a call costs the rest.
    """
    if not prompts or repeats < 1 or min(widths) < 1 or max(widths) < 3:
        raise ConfigError("timing needs a prompt, at least one repeat, and widths of at least 1, one of them 3 or more")
    rounds: list[Round] = []
    for turn in range(repeats):
        for place, width in enumerate(sorted({1, *widths})):
            count = (_ROUNDS if width <= 10 else _ROUNDS // 2) * (3 if width == 1 else 1)
            prompt = prompts[(turn * len(widths) + place) % len(prompts)]
            rounds += _timed(parts, prompt, [width - 1] * (_WARM + count), dice)[_WARM:]
    step_s = _middle_mean([s for r in rounds for s in r.steps_s[1:]])
    token_s = _slope(rounds, step_s)
    call_s: dict[int, list[float]] = {}
    for timed in rounds:
        call_s.setdefault(timed.length + 1, []).append(timed.call_s(step_s) - token_s * timed.emitted)
    table = {width: max(1e-9, _middle_mean(call_s[width])) for width in sorted(call_s)}
    return Costs(
        draft_s=step_s,
        verifier_s=_middle_mean([s for r in rounds for s in r.scores_s]),
        target_s=WidthCost(tuple(table), tuple(table.values())),
        token_s=token_s,
        target_prompt_s=max(0.0, _reading_s(parts.target, prompts) - table[1]),
        draft_prompt_s=_draft_reading_s(parts, prompts, step_s),
    )


def _timed(parts: Parts, prompt: Sequence[int], lengths: Sequence[int], dice: Dice) -> list[Round]:
    """The finished rounds of one run with drafts of these lengths; fewer than asked where the context window ends."""
    paced = _Paced(parts, lengths)
    # The end of a text would end the timing too.
    limits = dataclasses.replace(parts.limits, eos_ids=frozenset())
    engine = Engine(parts.target, paced, paced, paced, parts.sampling, limits)
    room = sum(lengths) + 2 * len(lengths) + 1
    for _ in engine.start(prompt, room, dice, Audit()):
        if paced.finished:
            break
    return [timed for timed in paced.rounds if timed.seconds > 0]


def _slope(rounds: Sequence[Round], step_s: float) -> float:
    """Seconds of one more emitted token: least squares with a level of its own for every width, at least 0.

    Deviations are taken relative to the width's usual time, since long calls are noisier; a round that took more than
    twice as long was disturbed.
    """
    above = below = 0.0
    for length in {r.length for r in rounds}:
        own = np.array([(r.emitted, r.call_s(step_s)) for r in rounds if r.length == length])
        usual = float(np.median(own[:, 1]))
        own = own[own[:, 1] <= 2 * usual]
        emitted, seconds = (own - own.mean(axis=0)).T
        above += float(emitted @ seconds) / usual**2
        below += float(emitted @ emitted) / usual**2
    return max(0.0, above / below) if below > 0 else 0.0


def _reading_s(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> float:
    """Mean seconds of reading a prompt from a cold cache, over all prompts."""
    taken: list[float] = []
    for prompt in prompts:
        forget(model, prompt)
        started = perf_counter()
        model.forward(prompt, 1)
        taken.append(perf_counter() - started)
    return float(np.mean(taken))


def _draft_reading_s(parts: Parts, prompts: Sequence[Sequence[int]], step_s: float) -> float:
    if not isinstance(parts.drafter, ModelDrafter):
        return 0.0
    return max(0.0, _reading_s(parts.drafter.model, prompts) - step_s)


def forget(model: LanguageModel, prompt: Sequence[int]) -> None:
    """Empty a model's cache of everything `prompt` could reuse, so that the next reading is a whole one."""
    other = 0 if prompt[0] != 0 else 1
    model.forward([other], 1)


def _middle_mean(values: Sequence[float]) -> float:
    """Mean of the middle half: a mean that a disturbed measurement does not move."""
    ordered: NDArray[np.float64] = np.sort(np.asarray(values, dtype=np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean()) if len(ordered) else 0.0
