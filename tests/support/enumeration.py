"""Every outcome of the real engine with its exact probability, by playing all answers chance could give."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from sprinter.core.chance import Chance
from sprinter.core.law import Law
from sprinter.core.protocols import Drafter, Gate, Recipe, Rule
from sprinter.core.rows import Part
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.models.toy import ToyModel
from sprinter.scheduler import Scheduler


class ScriptedChance(Chance):
    """Answers the first questions as told, every later one with its first possible answer, and keeps the score."""

    def __init__(self, script: list[int]) -> None:
        self._script = script
        self.taken: list[int] = []
        self.options: list[list[tuple[int, float]]] = []  # per question: (answer, probability)

    def accept(self, probability: float, round_: int, node: int) -> bool:
        return bool(self._answer([(1, probability), (0, 1 - probability)]))

    def draw(self, law: Law, round_: int, node: int, purpose: int) -> int:
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


def exact_law(play: Callable[[ScriptedChance], Hashable]) -> dict[Hashable, float]:
    """The exact law of `play`'s result."""
    law: dict[Hashable, float] = defaultdict(float)
    script: list[int] | None = []
    while script is not None:
        chance = ScriptedChance(script)
        law[play(chance)] += chance.probability
        script = chance.next_script()
    assert abs(sum(law.values()) - 1) < 1e-9
    return dict(law)


def output_law(
    pair: tuple[ToyModel, ToyModel],
    gate: Callable[[], Gate],
    rule: Rule,
    sampling: Sampling,
    num_tokens: int = 2,
    prompt: tuple[int, ...] = (0,),
    drafter: Callable[[ToyModel], Drafter] = ModelDrafter,
    scheduler: Scheduler | None = None,
) -> dict[Hashable, float]:
    """Exact law of the first `num_tokens` tokens the engine writes with (target, draft), gate and rule."""
    texts = [(prompt, num_tokens)]
    return {
        written[0]: p  # type: ignore[index]
        for written, p in joint_law(pair, gate, rule, sampling, texts, (), drafter, scheduler).items()
    }


def joint_law(
    pair: tuple[ToyModel, ToyModel],
    gate: Callable[[], Gate],
    rule: Rule,
    sampling: Sampling,
    texts: Sequence[tuple[tuple[int, ...], int]],
    order: Sequence[int],
    drafter: Callable[[ToyModel], Drafter] = ModelDrafter,
    scheduler: Scheduler | None = None,
) -> dict[Hashable, float]:
    """Exact joint law of texts (prompt, number of tokens) written side by side by one engine.

    `order` names the text that each of the first ticks is for; then all tick together.
    """
    target, draft = pair
    size = target.info.vocab_size

    def play(chance: ScriptedChance) -> Hashable:
        engine = Engine(target, scheduler)
        recipe = Recipe(gate(), rule, drafter(draft))
        running = [
            engine.begin(Text(prompt, count, sampling, chance, Limits(size, 64)), recipe) for prompt, count in texts
        ]
        for place in order:
            engine.tick([running[place]])
        engine.run(running)
        return tuple(tuple(emitted.id for emitted in text.out) for text in running)

    return exact_law(play)


def model_law(
    model: ToyModel, sampling: Sampling, num_tokens: int = 2, prompt: tuple[int, ...] = (0,)
) -> dict[Hashable, float]:
    """Exact law of `num_tokens` tokens drawn from the model alone, by the chain rule."""
    law: dict[Hashable, float] = {}
    for text in itertools.product(range(model.info.vocab_size), repeat=num_tokens):
        chance, context = 1.0, list(prompt)
        for token in text:
            chance *= law_at(model, sampling, context).prob(token)
            context.append(token)
        if chance > 0:
            law[text] = chance
    return law


def law_at(model: ToyModel, sampling: Sampling, context: Sequence[int]) -> Law:
    """The model's law after `context`."""
    views = model.forward([Part(model.open(), context, 1)])[0]
    return sampling.law(views.logits[0], context)


def distance(one: dict[Hashable, float], other: dict[Hashable, float]) -> float:
    """Total variation between two laws."""
    return sum(abs(one.get(k, 0) - other.get(k, 0)) for k in one.keys() | other.keys()) / 2
