"""Schedulers: who drafts is a matter of cost, and never of the law of an exact method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sprinter import Sprinter
from sprinter.core.chance import Chance
from sprinter.core.protocols import Gate, Recipe
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.gates.confidence import Confidence
from sprinter.gates.fixed import FixedGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule
from sprinter.scheduler import Cheapest, Curves, Eager
from sprinter.theory.costs import WidthCost
from tests.support.enumeration import distance, model_law, output_law

FLAT, STEEP = WidthCost((1, 64), (1.0, 1.001)), WidthCost((1, 64), (1.0, 64.0))


class Moody(Eager):
    """Lets a text draft in every other round only."""

    def drafting(self, texts: Sequence[Text], num_ready: int) -> Sequence[Text]:
        return [text for text in texts if len(text.tree) or text.round % 2]


@pytest.mark.parametrize(
    "gate", [lambda: FixedGate(2), lambda: ThresholdGate(Confidence(), math.inf, 0.3, 3)], ids=["exact", "lossless"]
)
def test_rounds_without_a_draft_in_between_leave_the_law_exact(gate: Callable[[], Gate]) -> None:
    target = ToyModel.random(3, 4, order=2)
    models = (target, target.near(5))
    law = output_law(models, gate, ExactRule(), Sampling(), num_tokens=3, scheduler=Moody())
    assert distance(law, model_law(target, Sampling(), num_tokens=3)) < 1e-9


def written(curves: Curves, noise: float, num_texts: int) -> list[Text]:
    target = ToyModel.random(30, 1)
    recipe = Recipe(ThresholdGate(Confidence(), 0.3), ExactRule(), ModelDrafter(target.near(2, noise)))
    engine = Engine(target, Cheapest(curves))
    texts = [Text([n], 60, Sampling(), Chance(n), Limits(30, 4096)) for n in range(num_texts)]
    engine.run([engine.begin(text, recipe) for text in texts])
    return texts


def test_where_a_row_costs_as_much_as_a_pass_good_drafts_are_gone_on_with() -> None:
    for text in written(Curves(WidthCost((1, 64), (0.01, 0.02)), FLAT), 0.1, 1):
        assert text.plain_rounds == 0


def test_where_drafting_costs_more_than_it_saves_the_target_writes() -> None:
    for text in written(Curves(WidthCost((1, 64), (1.0, 1.0)), STEEP), 3.0, 8):
        origins = [emitted.origin for emitted in text.out]
        assert origins.count("target") == text.plain_rounds > 30
        assert text.plain_rounds > 0.7 * text.round


def test_a_pair_s_own_curves_rise(tiny_pair: tuple[Path, Path]) -> None:
    draft, target = tiny_pair
    writer = Sprinter.from_pretrained(draft=draft, target=target)
    curves = Curves.measured(writer.pair.draft, writer.pair.target)
    for curve in (curves.draft, curves.target):
        assert 0 < curve(1) <= curve(8) <= curve(64) <= curve(200)


def test_the_cheapest_schedule_changes_no_greedy_text_of_an_exact_method(tiny_pair: tuple[Path, Path]) -> None:
    draft, target = tiny_pair
    prompts, how = ["the land", "in", "of a sea", "and"], {"method": "exact", "max_new_tokens": 20}
    faithful, cheapest = (
        Sprinter.from_pretrained(draft=draft, target=target, schedule=schedule) for schedule in ("faithful", "cheapest")
    )
    assert [m.text for m in cheapest.generate(prompts, **how)] == [m.text for m in faithful.generate(prompts, **how)]


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="schedule is 'fast'"):
        Sprinter.from_pretrained(schedule="fast")
