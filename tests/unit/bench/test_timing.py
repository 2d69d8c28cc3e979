"""What the timing finds is what each part costs in the loop: on a simulated clock every figure comes back."""

from __future__ import annotations

import pytest

from sprinter.bench import timing
from sprinter.bench.probe import Parts, probe_rows
from sprinter.bench.timing import Round, time_pair
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.gates.confidence import Confidence
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.observers.audit import Audit
from sprinter.rules.exact import ExactRule
from sprinter.theory.candidates import Candidate, trace_outcome
from sprinter.theory.setting import Setting

VOCAB = 8
STEP_S, COLD_S, SCORE_S, TOKEN_S, READ_S = 1.0, 0.25, 0.125, 0.5, 0.75
PROMPTS = [[n % VOCAB, (3 * n + 1) % VOCAB, n // VOCAB, 2] for n in range(12)]


def call_s(width: int) -> float:
    """The target's forward pass, dearer by the token."""
    return 5.0 + 0.75 * width


class Clock:
    """Stands still but for what is charged to it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(ToyModel):
    """Charges by the tokens it computes; the draft pays `COLD_S` more for the first step after the target ran."""

    clock: Clock
    cold: dict[str, bool]
    is_target = False

    def forward(self, parts):
        for part in parts:
            rows = len(part.tokens)
            if self.is_target:
                # Rows whose views nobody asks for are the prompt's; one more is where the last call ended.
                self.clock.now += call_s(part.wanted) + READ_S * max(0, rows - part.wanted)
            else:
                # After a bonus two tokens are usual.
                self.clock.now += STEP_S + READ_S * max(0, rows - 2) + (COLD_S if self.cold["draft"] else 0.0)
            self.cold["draft"] = self.is_target
        return super().forward(parts)


class TimedScore(Confidence):
    clock: Clock

    def score(self, text, proposal):
        self.clock.now += SCORE_S
        return super().score(text, proposal)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    class TimedAudit(Audit):
        def saw(self, text, verdict, reading):
            clock.now += TOKEN_S * (len(verdict.path) + (verdict.token is not None))
            super().saw(text, verdict, reading)

    monkeypatch.setattr(timing, "perf_counter", clock)
    monkeypatch.setattr(timing, "Audit", TimedAudit)
    return clock


def parts_on(clock: Clock) -> Parts:
    base = ToyModel.random(VOCAB, 3, spread=2.0)
    cold = {"draft": False}
    models = []
    for source, is_target in ((base, True), (base.near(4, 0.9), False)):
        model = Timed(source._logits_of, VOCAB)
        model.clock, model.cold, model.is_target = clock, cold, is_target
        models.append(model)
    scorer = TimedScore()
    scorer.clock = clock
    sampling = Sampling(temperature=0.8)
    return Parts(models[0], ModelDrafter(models[1]), scorer, sampling, Limits(VOCAB, 4096))


def test_every_part_gets_its_own_time(clock: Clock) -> None:
    costs = time_pair(parts_on(clock), PROMPTS, seed=1, widths=(1, 2, 3, 6, 9))
    assert costs.draft_s == pytest.approx(STEP_S)
    assert costs.verifier_s == pytest.approx(SCORE_S)
    assert costs.token_s == pytest.approx(TOKEN_S)
    assert costs.target_s(1) == pytest.approx(call_s(1))
    # The draft's cold start belongs to the round, not to the step: a long draft pays it once.
    assert [costs.target_s(w) for w in (2, 3, 6, 9)] == pytest.approx([call_s(w) + COLD_S for w in (2, 3, 6, 9)])
    assert costs.target_prompt_s == pytest.approx(READ_S * 3)
    assert costs.draft_prompt_s == pytest.approx(READ_S * 2, abs=COLD_S)


@pytest.mark.parametrize(
    ("method", "setting", "gate"),
    [
        ("target", None, None),
        ("sprinter", Setting(0.5, 1.0, 8), ThresholdGate(Confidence(), 0.5, 1.0, 8)),
    ],
)
def test_a_prediction_from_these_times_is_what_the_loop_takes(clock: Clock, method, setting, gate) -> None:
    # 12 texts of 60 tokens; what is left is that the probe's texts and the timed ones are drawn anew.
    parts = parts_on(clock)
    costs = time_pair(parts, PROMPTS, seed=1)
    traces = probe_rows(parts, PROMPTS, 60, seed=2)
    predicted = trace_outcome(Candidate(method, setting), traces, costs).seconds_per_token
    spent, tokens = 0.0, 0
    for seed, prompt in enumerate(PROMPTS, start=100):
        began = clock.now
        if gate is None:
            tokens += len(timing._timed(parts, prompt, [0] * 60, seed))
        else:
            gate.scorer = parts.scorer
            text = Text(prompt, 60, parts.sampling, Chance(seed), parts.limits)
            engine = Engine(parts.target)
            engine.run([engine.begin(text, Recipe(gate, ExactRule(), parts.drafter), [timing.Audit()])])
            tokens += text.num_tokens
        spent += clock.now - began
    assert predicted == pytest.approx(spent / tokens, rel=0.05)


def test_a_disturbed_round_moves_nothing() -> None:
    rounds = [Round(1, 2.0 + 0.5 * emitted, [0.5], [], emitted) for emitted in (1, 2) for _ in range(4)]
    assert timing._slope(rounds, 0.5) == pytest.approx(0.5)
    assert timing._slope([*rounds, Round(1, 90.0, [0.5], [], 2)], 0.5) == pytest.approx(0.5)
    assert timing._middle_mean([1.0, 1.0, 1.0, 90.0]) == 1.0
    # All rounds alike tell nothing of a further token.
    assert timing._slope(rounds[:4], 0.5) == 0.0


def test_a_timing_of_nothing_is_refused() -> None:
    model = ToyModel.random(VOCAB, 3)
    parts = Parts(model, ModelDrafter(model), Confidence(), Sampling(), Limits(VOCAB, 4096))
    with pytest.raises(ConfigError):
        time_pair(parts, [], seed=0)
    with pytest.raises(ConfigError):
        time_pair(parts, [[1]], seed=0, widths=(1, 2))
