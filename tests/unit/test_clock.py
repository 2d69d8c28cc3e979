"""Time is an observer's business: what a stage took is charged to the texts it served."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.gates.fixed import FixedGate
from sprinter.models.toy import ToyModel
from sprinter.observers import clock
from sprinter.observers.clock import Stopwatch
from sprinter.rules.exact import ExactRule

PROMPTS = ([0], [1, 2, 3, 4, 5, 6, 7], [2, 0])


class Tolling:
    """Notes every stage that begins."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def began(self, stage: str) -> None:
        self.stages.append(stage)

    def ended(self, stage: str, texts: Sequence[Text]) -> None:
        """Counted when it began."""


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves one second every time it is read, so that every stage takes one second."""
    now = iter(range(1_000_000))
    monkeypatch.setattr(clock, "perf_counter", lambda: float(next(now)))


def _decoded(prompts: Sequence[Sequence[int]], length: int = 3) -> tuple[list[Text], Tolling]:
    target = ToyModel.random(8, 1)
    tolling = Tolling()
    engine = Engine(target, clocks=(Stopwatch(), tolling))
    recipe = Recipe(FixedGate(length), ExactRule(), ModelDrafter(target.near(2)))
    texts = [Text(p, 12, Sampling(), Chance(n), Limits(8, 100)) for n, p in enumerate(prompts)]
    engine.run([engine.begin(text, recipe) for text in texts])
    return texts, tolling


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["alone", "together"])
def test_every_second_of_a_stage_is_charged_once(prompts: Sequence[Sequence[int]]) -> None:
    texts, tolling = _decoded(prompts)
    for name, stage in (("draft_s", "draft"), ("gate_s", "verify"), ("target_s", "target")):
        charged = sum(getattr(text.counters, name) for text in texts)
        assert charged == pytest.approx(tolling.stages.count(stage)) and charged > 0


@pytest.mark.usefixtures("ticking")
def test_a_texts_share_of_a_pass_is_that_of_its_rows() -> None:
    target = ToyModel.random(8, 1)
    engine = Engine(target, clocks=(Stopwatch(),))
    recipe = Recipe(FixedGate(0), ExactRule())
    texts = [engine.begin(Text(p, 3, Sampling(), Chance(0), Limits(8, 100)), recipe) for p in PROMPTS]
    engine.tick(texts)
    assert [text.counters.target_s for text in texts] == pytest.approx([0.1, 0.7, 0.2])
    engine.tick(texts)
    assert [text.counters.target_s for text in texts] == pytest.approx([0.1 + 1 / 3, 0.7 + 1 / 3, 0.2 + 1 / 3])


def test_the_rows_a_stopwatch_counts_are_those_the_models_computed() -> None:
    counted = {"draft": 0, "target": 0}

    class Counting:
        def began(self, stage: str) -> None:
            """Rows are known when a stage ends."""

        def ended(self, stage: str, texts: Sequence[Text]) -> None:
            if stage != "verify":
                counted[stage] += sum(clock.num_rows(text, stage) for text in texts)

    target = ToyModel.random(8, 1)
    engine = Engine(target, clocks=(Counting(),))
    recipe = Recipe(FixedGate(3), ExactRule(bonus=False), ModelDrafter(target.near(2)))
    texts = [engine.begin(Text(p, 12, Sampling(), Chance(1), Limits(8, 100)), recipe) for p in PROMPTS]
    engine.run(texts)
    assert counted["target"] == sum(text.counters.target_tokens for text in texts)
