"""Every outcome of the real engine with its exact probability, by playing all answers chance could give."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable

import numpy as np

from sprinter.core.records import Law
from sprinter.core.sampling import Dice, Sampling
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine, Limits
from sprinter.gates.base import Gate
from sprinter.models.toy import ToyModel
from sprinter.observers.audit import Audit
from sprinter.rules.base import AcceptanceRule


class ScriptedDice(Dice):
    """Answers the first questions as told, every later one with its first possible answer, and keeps the score."""

    def __init__(self, script: list[int]) -> None:
        self._script = script
        self.taken: list[int] = []
        self.options: list[list[tuple[int, float]]] = []  # per question: (answer, probability)

    def accept(self, probability: float) -> bool:
        return bool(self._answer([(1, probability), (0, 1 - probability)]))

    def draw(self, law: Law) -> int:
        return self._answer([(law.token_at(i), float(p)) for i, p in enumerate(law.probs)])

    def _answer(self, options: list[tuple[int, float]]) -> int:
        possible = [option for option in options if option[1] > 0]
        step = len(self.taken)
        self.taken.append(self._script[step] if step < len(self._script) else 0)
        self.options.append(possible)
        return possible[self.taken[-1]][0]

    @property
    def probability(self) -> float:
        return float(np.prod([o[t][1] for o, t in zip(self.options, self.taken, strict=True)]))

    def next_script(self) -> list[int] | None:
        """The script of the next branch in depth-first order; None after the last."""
        for step in reversed(range(len(self.taken))):
            if self.taken[step] + 1 < len(self.options[step]):
                return [*self.taken[:step], self.taken[step] + 1]
        return None


def exact_law(play: Callable[[Dice], Hashable]) -> dict[Hashable, float]:
    """The exact law of `play`'s result."""
    law: dict[Hashable, float] = defaultdict(float)
    script: list[int] | None = []
    while script is not None:
        dice = ScriptedDice(script)
        law[play(dice)] += dice.probability
        script = dice.next_script()
    assert abs(sum(law.values()) - 1) < 1e-9
    return dict(law)


def output_law(
    pair: tuple[ToyModel, ToyModel],
    gate: Callable[[], Gate],
    rule: AcceptanceRule,
    sampling: Sampling,
    num_tokens: int = 2,
    prompt: tuple[int, ...] = (0,),
) -> dict[Hashable, float]:
    """Exact law of the first `num_tokens` tokens the engine writes with (target, draft), gate and rule."""
    target, draft = pair
    size = target.info.vocab_size

    def play(dice: Dice) -> Hashable:
        drafter = ModelDrafter(draft, sampling, size)
        engine = Engine(target, drafter, gate(), rule, sampling, Limits(size, 64))
        run = engine.start(prompt, num_tokens, dice, Audit())
        return tuple(emitted.id for emitted in run)

    return exact_law(play)


def model_law(
    model: ToyModel, sampling: Sampling, num_tokens: int = 2, prompt: tuple[int, ...] = (0,)
) -> dict[Hashable, float]:
    """Exact law of `num_tokens` tokens drawn from the model alone, by the chain rule."""
    law: dict[Hashable, float] = {}
    for text in itertools.product(range(model.info.vocab_size), repeat=num_tokens):
        chance, context = 1.0, list(prompt)
        for token in text:
            chance *= sampling.law(model.forward(context, 1).logits[0], context).prob(token)
            context.append(token)
        if chance > 0:
            law[text] = chance
    return law


def distance(one: dict[Hashable, float], other: dict[Hashable, float]) -> float:
    """Total variation between two laws."""
    return sum(abs(one.get(k, 0) - other.get(k, 0)) for k in one.keys() | other.keys()) / 2
