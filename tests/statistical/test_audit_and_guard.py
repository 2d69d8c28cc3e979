"""The real engine's audit against exact one-step errors, and how soon the guard notices a drift."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sprinter.certify.guard import Guard
from sprinter.certify.watch import Watch
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.records import Emitted
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine
from sprinter.gates.confidence import Confidence
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.toy import ToyModel
from sprinter.observers.audit import Audit
from sprinter.rules.exact import ExactRule
from tests.support.passes import read

VOCAB = 6


def tabled(model: ToyModel) -> ToyModel:
    """The same laws, looked up instead of drawn again for each context."""
    rows = np.stack([read(model, [token]).logits[0] for token in range(VOCAB)])
    return ToyModel(lambda context: rows[context[-1]], VOCAB, model.info.name)


RANDOM = ToyModel.random(VOCAB, 31, spread=1.2)
TARGET, GOOD, BAD = tabled(RANDOM), tabled(RANDOM.near(32, noise=0.3)), tabled(RANDOM.near(33, noise=1.5))


def law_table(model: ToyModel) -> NDArray[np.float64]:
    """Next-token laws after each token, [vocab, vocab]."""
    logits = np.stack([read(model, [token]).logits[0] for token in range(VOCAB)])
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def one_step_errors(draft: ToyModel, threshold: float) -> NDArray[np.float64]:
    """delta(s) = sum_y v(y) (q(y) - p(y))+ after each token, [vocab]; the scorer is q(x)."""
    p, q = law_table(TARGET), law_table(draft)
    return np.asarray(((q >= threshold) * np.maximum(q - p, 0)).sum(axis=1))


def decode(
    draft: ToyModel, threshold: float, lookahead: float, num_tokens: int, seed: int, limits: Limits | None = None
) -> tuple[list[int], list[Emitted], Audit]:
    """One closed run on the real engine: context, tokens, audit."""
    gate = ThresholdGate(Confidence(), threshold, lookahead, max_draft=5)
    text = Text([seed % VOCAB], num_tokens, Sampling(), Chance(seed), limits or Limits(VOCAB, 4096))
    engine, audit = Engine(TARGET), Audit()
    engine.run([engine.begin(text, Recipe(gate, ExactRule(), ModelDrafter(draft)), [audit])])
    engine.close_audit([text])
    return [seed % VOCAB, *(token.id for token in text.out)], text.out, audit


@pytest.mark.parametrize("lookahead", [1.0, 0.2])
def test_the_engines_audit_is_unbiased_at_the_prefixes_it_visits(lookahead: float) -> None:
    # d_t - delta(s_t) is a martingale difference. Power: leaving out every tenth loss would be about 7 standard errors.
    delta = one_step_errors(BAD, 0.3)
    differences: list[float] = []
    losses: list[float] = []
    for seed in range(150):
        context, emitted, audit = decode(BAD, 0.3, lookahead, 100, seed)
        assert len(audit.tv_losses) == len(audit.atypical) == len(emitted) == 100
        for before, token, loss in zip(context, emitted, audit.tv_losses, strict=False):
            # A bonus token is the target's own draw, decided before the drafter is asked.
            expected = 0.0 if token.origin == "bonus" else float(delta[before])
            differences.append(loss - expected)
            losses.append(loss)
    error = np.std(differences) / np.sqrt(len(differences))
    assert abs(np.mean(differences)) <= 4 * error
    assert 0.1 * np.mean(losses) > 6 * error


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 7])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 2.0])
def test_the_audit_counts_each_emitted_token_once_and_no_other(num_tokens: int, threshold: float) -> None:
    """A next token for which there was no room left must not water the mean loss down."""
    for seed in range(40):
        _, emitted, audit = decode(BAD, threshold, 0.2, num_tokens, seed)
        assert len(emitted) == num_tokens
        assert len(audit.tv_losses) == len(audit.atypical) == len(audit.own_atypical) == num_tokens


def test_the_audit_stops_counting_at_the_end_of_a_text() -> None:
    endings = 0
    for seed in range(200):
        _, emitted, audit = decode(BAD, 0.3, 0.2, 50, seed, Limits(VOCAB, 4096, frozenset({2})))
        endings += emitted[-1].id == 2
        assert len(audit.tv_losses) == len(emitted)
    assert endings > 150


def test_the_guard_notices_a_drifted_stream_of_the_real_engine(tmp_path: Path) -> None:
    """Calibrated on one draft's errors, served another's: the median delay is what docs/certificate.md reports."""
    good = np.concatenate([decode(GOOD, 0.3, 1.0, 80, seed)[2].tv_losses for seed in range(25)])
    bad = np.concatenate([decode(BAD, 0.3, 1.0, 80, seed)[2].tv_losses for seed in range(25)])
    watch = Watch("tv", epsilon=1.5 * float(good.mean()), thresholds=(0.3,), action="exact", max_tokens=100)
    assert bad.mean() > 1.5 * watch.epsilon
    delays = []
    for stream in range(11):
        rng = np.random.default_rng(stream)
        guard = Guard(tmp_path / f"{stream}.db", dataclasses.replace(watch, setting=str(stream)))
        for _ in range(40):
            assert guard.record(list(rng.choice(good, 100)), 0.3).trip is None
        tokens = 0
        while guard.record(list(rng.choice(bad, 100)), 0.3).trip is None:
            tokens += 100
        delays.append(tokens)
        guard.close()
    assert np.median(delays) < 2_000
