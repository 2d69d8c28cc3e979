"""From a probe of a toy pair to what the engine then really does: drafted tokens, calls, loss and so the speed."""

import math

import numpy as np
import pytest

from sprinter.bench.probe import Parts, probe_rows
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.gates.confidence import Confidence
from sprinter.gates.fixed import FixedGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.observers.audit import Audit
from sprinter.rules.exact import ExactRule
from sprinter.theory.candidates import Candidate, trace_outcome
from sprinter.theory.costs import Costs, WidthCost
from sprinter.theory.setting import Setting

VOCAB = 12
SAMPLING = Sampling(temperature=0.8)
LIMITS = Limits(VOCAB, 4096)
COSTS = Costs(0.1, 0.0, WidthCost((1,), (1.0,)))  # priced, not timed: a busy machine changes nothing
PROMPTS = [[i % VOCAB, (5 * i + 1) % VOCAB] for i in range(24)]


def models():
    """A pair whose laws depend on the last token, so that neighbouring tokens depend on each other."""
    target = ToyModel.random(VOCAB, 17, order=1, spread=2.0)
    return target, ModelDrafter(target.near(4, 0.9))


@pytest.fixture(scope="module")
def traces():
    target, drafter = models()
    parts = Parts(target, drafter, Confidence(), SAMPLING, LIMITS)
    return probe_rows(parts, PROMPTS, 60, seed=1)


METHODS = {
    "exact": (Candidate("exact", Setting.exact(4)), lambda: (FixedGate(4), ExactRule())),
    "lossless": (
        Candidate("lossless", Setting.lossless(0.3, 8)),
        lambda: (ThresholdGate(Confidence(), math.inf, 0.3, 8), ExactRule()),
    ),
    "sprinter": (
        Candidate("sprinter", Setting(0.5, 1.0, 8)),
        lambda: (ThresholdGate(Confidence(), 0.5, 1.0, 8), ExactRule()),
    ),
    "lookahead": (
        Candidate("lookahead", Setting(0.6, 0.3, 8)),
        lambda: (ThresholdGate(Confidence(), 0.6, 0.3, 8), ExactRule()),
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_from_a_probe_predicts_the_engines_speed_and_loss(method, traces):
    candidate, parts = METHODS[method]
    predicted = trace_outcome(candidate, traces, COSTS)
    seconds, tokens, losses = 0.0, 0, []
    target, drafter = models()
    engine, recipe = Engine(target), Recipe(*parts(), drafter)
    for seed, prompt in enumerate(PROMPTS):
        text, audit = Text(prompt, 60, SAMPLING, Chance(seed), LIMITS), Audit()
        engine.run([engine.begin(text, recipe, [audit])])
        tokens += text.num_tokens
        losses += audit.tv_losses
        seconds += text.counters.draft_steps * COSTS.draft_s + text.counters.target_calls * COSTS.target_s(1)
    assert predicted.speedup > 1.2
    assert tokens / seconds == pytest.approx(predicted.speedup, rel=0.15)
    assert np.mean(losses) == pytest.approx(predicted.loss, abs=0.03)
