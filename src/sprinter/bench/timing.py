"""How long each part of a pair takes here, timed inside the very loop that decodes.

Timed alone, a part is too fast: a small draft stays in the processor's cache until a target call drives it out, and a
call is more than its forward pass. Timed between calls of quite another width, it is too slow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from sprinter.bench.probe import SEED_STEP, Parts
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe, Scorer
from sprinter.core.rows import Model, Needs, Part
from sprinter.core.text import Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.observers.audit import Audit
from sprinter.rules.exact import ExactRule
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


class PacedGate:
    """Drafts so many tokens in each round as it is told, by the round's number.

    Every other round is like SPRINTER's, whose last token alone is tested; the others are like exact decoding's.
    """

    vouches = True

    def __init__(self, scorer: Scorer, lengths: Sequence[int]) -> None:
        self.needs: Needs = scorer.needs
        self._scorer, self._lengths = scorer, lengths

    def judge(self, text: Text) -> bool:
        """See `Gate.judge`."""
        if text.round >= len(self._lengths):
            return False
        tree, length = text.tree, self._lengths[text.round]
        while tree.fresh:
            score = self._scorer.score(text, tree.fresh[0])
            tree.settle(score, text.round % 2 == 1 and len(tree.scores) + 1 < length)
        return len(tree) < length


class StageClock:
    """Seconds of every draft step and every verdict of the gate, until they are taken."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {"draft": [], "verify": [], "target": []}
        self._began_s = 0.0

    def began(self, stage: str) -> None:
        """See `Clock.began`."""
        self._began_s = perf_counter()

    def ended(self, stage: str, texts: Sequence[Text]) -> None:
        """See `Clock.ended`."""
        self._seconds[stage].append(perf_counter() - self._began_s)

    def take(self) -> tuple[list[float], list[float]]:
        """(draft steps, scores) since the last time."""
        found = self._seconds
        self._seconds = {stage: [] for stage in found}
        return found["draft"], found["verify"]


def time_pair(
    parts: Parts, prompts: Sequence[Sequence[int]], seed: int, widths: Sequence[int] = WIDTHS, repeats: int = 3
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
            own = seed * SEED_STEP + turn * len(widths) + place
            rounds += _timed(parts, prompt, [width - 1] * (_WARM + count), own)[_WARM:]
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


def _timed(parts: Parts, prompt: Sequence[int], lengths: Sequence[int], seed: int) -> list[Round]:
    """The finished rounds of one run with drafts of these lengths; fewer than asked where the context window ends."""
    # The end of a text would end the timing too.
    limits = dataclasses.replace(parts.limits, eos_ids=frozenset())
    room = sum(lengths) + 2 * len(lengths) + 1
    watch, rounds = StageClock(), []
    engine = Engine(parts.target, clocks=[watch])
    text = Text(prompt, room, parts.sampling, Chance(seed), limits)
    engine.begin(text, Recipe(PacedGate(parts.scorer, lengths), ExactRule(), parts.drafter), [Audit()])
    while text.round < len(lengths) and text.finish_reason is None:
        number, settled, began_s = text.round, text.settled, perf_counter()
        while text.round == number and text.finish_reason is None:
            engine.tick([text])
        if text.error is not None:
            raise text.error
        if text.round > number:
            seconds = perf_counter() - began_s
            rounds.append(Round(lengths[number], seconds, *watch.take(), text.settled - settled))
    return rounds


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


def _reading_s(model: Model, prompts: Sequence[Sequence[int]]) -> float:
    """Mean seconds of reading a prompt into a new cache, over all prompts."""
    taken: list[float] = []
    for prompt in prompts:
        started = perf_counter()
        model.forward([Part(model.open(), prompt, 1)])
        taken.append(perf_counter() - started)
    return float(np.mean(taken))


def _draft_reading_s(parts: Parts, prompts: Sequence[Sequence[int]], step_s: float) -> float:
    if not isinstance(parts.drafter, ModelDrafter):
        return 0.0
    return max(0.0, _reading_s(parts.drafter.model, prompts) - step_s)


def _middle_mean(values: Sequence[float]) -> float:
    """Mean of the middle half: a mean that a disturbed measurement does not move."""
    ordered: NDArray[np.float64] = np.sort(np.asarray(values, dtype=np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean()) if len(ordered) else 0.0
