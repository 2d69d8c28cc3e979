"""Long prompts are read in chunks, so that nobody waits for all of one; no text is another for it."""

from __future__ import annotations

import pytest

from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.hub import HubDrafter
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.gates.confidence import Confidence
from sprinter.gates.fixed import FixedGate, OnceGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule
from sprinter.rules.hub import HubRule

LIMITS = Limits(6, 400)


def recipes(target: ToyModel) -> list[Recipe]:
    draft = target.near(2)
    return [
        Recipe(FixedGate(0), ExactRule()),
        Recipe(FixedGate(3), ExactRule(), ModelDrafter(draft)),
        Recipe(ThresholdGate(Confidence(), 0.3), ExactRule(), ModelDrafter(draft)),
        Recipe(OnceGate(), HubRule(), HubDrafter(draft, 2, 2)),
    ]


@pytest.mark.parametrize("chunk", [1, 7, 64, 300])
def test_texts_are_the_same_in_any_chunks(chunk: int) -> None:
    target = ToyModel.random(6, 1, order=2)
    prompts = [[n % 5 for n in range(length)] for length in (1, 2, 100, 250)]
    written = []
    for own in (None, chunk):
        engine = Engine(target, chunk=own)
        texts = [
            engine.begin(Text(prompt, 20, Sampling(), Chance(n), LIMITS), recipe)
            for n, prompt in enumerate(prompts)
            for recipe in recipes(target)
        ]
        engine.run(texts)
        written.append([[(e.id, e.origin) for e in text.out] for text in texts])
    assert written[0] == written[1]


def test_a_short_text_goes_on_while_a_long_prompt_is_read() -> None:
    target = ToyModel.random(6, 1, order=2)
    engine, plain = Engine(target, chunk=10), Recipe(FixedGate(0), ExactRule())
    long, short = (engine.begin(Text([1] * length, 50, Sampling(), Chance(0), LIMITS), plain) for length in (200, 2))
    for tick in range(1, 19):
        engine.tick([long, short])
        assert short.num_tokens == tick
        assert long.num_tokens == 0
    engine.tick([long, short])
    assert (long.num_tokens, long.counters.target_tokens) == (1, 200)
