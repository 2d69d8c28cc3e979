"""The real engine with real chance: frequencies of its output against the exact law.

Each test draws NUM_RUNS texts of two tokens over a vocabulary of 4 (16 outcomes) and compares them by Pearson's
chi-square at level 1e-4, seeds fixed. Its power against a law at total variation 0.05 is above 0.95: see
`test_the_stated_power_is_right`, which computes it for the hardest such law.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
from scipy.stats import chi2, ncx2

from sprinter.core.chance import Chance
from sprinter.core.protocols import Gate, Recipe, Rule
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.gates.confidence import Confidence
from sprinter.gates.fixed import FixedGate, OpenGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule
from tests.support.enumeration import distance, model_law, output_law

NUM_RUNS = 6_000
LEVEL = 1e-4
VOCAB = 4

TARGET = ToyModel.random(VOCAB, 21, order=1, spread=0.8)
DRAFT = TARGET.near(22, noise=0.8)


def sampled(gate: Gate, rule: Rule, seed: int) -> Counter[tuple[int, ...]]:
    """Outcomes of NUM_RUNS texts with a seed each, a hundred at a time in company."""
    engine, recipe, limits = Engine(TARGET), Recipe(gate, rule, ModelDrafter(DRAFT)), Limits(VOCAB, 64)
    counts: Counter[tuple[int, ...]] = Counter()
    for start in range(0, NUM_RUNS, 100):
        texts = [Text([0], 2, Sampling(), Chance(NUM_RUNS * seed + start + n), limits) for n in range(100)]
        engine.run([engine.begin(text, recipe) for text in texts])
        counts.update(tuple(e.id for e in text.out) for text in texts)
    return counts


def p_value(counts: Counter[tuple[int, ...]], law: dict) -> float:  # type: ignore[type-arg]
    statistic = sum((counts[k] - NUM_RUNS * p) ** 2 / (NUM_RUNS * p) for k, p in law.items())
    return float(chi2.sf(statistic, len(law) - 1))


METHODS: dict[str, tuple[Callable[[], Gate], Rule]] = {
    "exact": (lambda: FixedGate(2), ExactRule()),
    "lossless": (lambda: ThresholdGate(Confidence(), math.inf, 0.2, 3), ExactRule()),
    "sprinter at infinity": (lambda: ThresholdGate(Confidence(), math.inf), ExactRule()),
    "lookahead": (lambda: ThresholdGate(Confidence(), 0.5, 0.1, 3), ExactRule()),
    "sprinter": (lambda: ThresholdGate(Confidence(), 0.4), ExactRule()),
    "draft": (OpenGate, ExactRule()),
}

EXACT = ("exact", "lossless", "sprinter at infinity")


@pytest.mark.parametrize("name", METHODS)
def test_frequencies_follow_the_exact_law_of_the_method(name: str) -> None:
    gate, rule = METHODS[name]
    law = output_law((TARGET, DRAFT), gate, rule, Sampling())
    assert p_value(sampled(gate(), rule, seed=1), law) > LEVEL
    if name in EXACT:
        assert distance(law, model_law(TARGET, Sampling())) < 1e-9


def test_an_approximate_method_is_told_from_the_target() -> None:
    """The same test at the same size fails where it must: total variation here is above 0.05."""
    gate, rule = METHODS["sprinter"]
    law = model_law(TARGET, Sampling())
    assert distance(output_law((TARGET, DRAFT), gate, rule, Sampling()), law) > 0.05
    assert p_value(sampled(gate(), rule, seed=3), law) < LEVEL


def test_the_stated_power_is_right() -> None:
    """Over laws at total variation 0.05 the noncentrality n sum (r - p)^2 / p is at least 4 n TV^2."""
    noncentrality = 4 * NUM_RUNS * 0.05**2
    power = ncx2.sf(chi2.isf(LEVEL, VOCAB**2 - 1), VOCAB**2 - 1, noncentrality)
    assert power > 0.95
