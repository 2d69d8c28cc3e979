"""What the target thinks of a text agrees with the audit, and repetition with counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sprinter.bench import quality
from sprinter.bench.flops import run_flops
from sprinter.bench.quality import diversity, read_output
from sprinter.core.chance import Chance
from sprinter.core.law import Law, log_softmax
from sprinter.core.reading import Reading
from sprinter.core.records import Counters
from sprinter.core.rows import ModelInfo, Views
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.core.tree import Proposal
from sprinter.errors import ConfigError
from sprinter.gates.fallback import FallbackGate
from sprinter.models.base import facts_of
from sprinter.rules.rollback import RollbackRule
from tests.support.bench_toys import VOCAB, toy_bench
from tests.support.passes import read


def test_the_reading_is_the_mean_log_probability(monkeypatch):
    target = toy_bench().pair.target
    prompt, ids = [1, 2], [4, 5, 4, 7, 1]
    expected = []
    for place, token in enumerate(ids):
        expected.append(log_softmax(read(target, [*prompt, *ids[:place]]).logits[0])[token])
    whole = read_output(target, Sampling(1.0), prompt, ids, VOCAB)
    assert whole.log_likelihood == pytest.approx(np.mean(expected))
    monkeypatch.setattr(quality, "_ROWS", 2)
    assert read_output(target, Sampling(1.0), prompt, ids, VOCAB) == whole


def test_greedy_text_of_the_target_matches_its_own_choice():
    bench = toy_bench(temperature=0.0)
    tokens = [1]
    for _ in range(6):
        tokens.append(int(np.argmax(read(bench.pair.target, tokens).logits[0])))
    reading = read_output(bench.pair.target, bench.sampling, tokens[:1], tokens[1:], VOCAB)
    assert (reading.mismatch, reading.atypical, reading.own_atypical) == (0, 0, 0)


def test_repetition_by_hand():
    assert diversity([1, 2, 1, 2, 1])["distinct1"] == pytest.approx(2 / 5)
    assert diversity([1, 2, 1, 2, 1])["distinct2"] == pytest.approx(2 / 4)
    assert diversity([1, 1, 1, 1, 1])["repeat4"] == pytest.approx(1 / 2)
    assert diversity([1])["distinct2"] is None


def test_flops_are_two_per_parameter_and_token_and_the_paper_charges_tested_ones():
    info = ModelInfo("m", 10, 100, 4, 2, 1000, 0, "", "toy", "float64")
    counters = Counters(target_tokens=20, draft_tokens=30, draft_steps=12)
    found = run_flops(info, info, counters, tested=3, length=10, num_prompt=5)
    token = 2 * 1000 + 4 * 2 * 4 * 5
    assert (found.total, found.paper) == (50 * token, 15 * token)
    assert run_flops(info, None, counters, None, 10, 5).paper == (20 - 5) * token + 12 * 0


def proposal(token, peak):
    probs = np.array([peak, 1 - peak])
    return Proposal(token, Law(probs), np.log(probs), facts_of(np.log(probs)[None]).table[0])


def drafted(gate, *pairs):
    """A text after these (token, chance of token 0) were drafted one by one, and whether the gate wants more."""
    text = Text([0], 10, Sampling(0.0), Chance(0), Limits(2, 100))
    for token, peak in pairs:
        text.add(proposal(token, peak))
        more = gate.judge(text)
    return text, more


def judged(rule, text, *peaks):
    """The rule's verdict where the target's chances of token 0 are these, row by row."""
    logits = np.log(np.array([[peak, 1 - peak] for peak in peaks]))
    verdict = rule.judge(text, Reading(text, Views(logits, None, facts_of(logits))))
    return len(verdict.path), verdict.token


def test_big_little_decoding_stops_at_a_doubt_and_lets_the_target_write_that_token():
    gate = FallbackGate(0.7)
    assert drafted(gate, (0, 0.9))[1]
    unsure, more = drafted(gate, (0, 0.9), (0, 0.6))
    assert not more and list(unsure.tree.vouched) == [0, 0]
    assert judged(RollbackRule(0.7, rollback=2.0), unsure, 0.8, 0.3, 0.99) == (1, 1)


def test_big_little_decoding_goes_back_to_what_the_target_finds_unlikely():
    text, _ = drafted(FallbackGate(0.5), (0, 0.9), (1, 0.1))
    rule = RollbackRule(0.5, rollback=2.0)
    assert judged(rule, text, 0.1, 0.4, 0.4) == (0, 1)  # -log 0.1 = 2.3 nats
    assert judged(rule, text, 0.2, 0.4, 0.4)[0] == 2


@pytest.mark.parametrize("bad", [lambda: FallbackGate(1.5), lambda: RollbackRule(0.5, 0.0)])
def test_thresholds_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError):
        bad()
