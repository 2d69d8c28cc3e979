"""What the target thinks of a text agrees with the audit, and repetition with counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sprinter.bench import quality
from sprinter.bench.flops import run_flops
from sprinter.bench.quality import diversity, read_output
from sprinter.core.records import Counters, Draft, Law, Proposal
from sprinter.core.sampling import Dice, Sampling, log_softmax
from sprinter.errors import ConfigError
from sprinter.gates.fallback import FallbackGate
from sprinter.models.base import ModelInfo
from sprinter.rules.rollback import RollbackRule
from tests.support.bench_toys import VOCAB, toy_bench


def test_the_reading_is_the_mean_log_probability(monkeypatch):
    target = toy_bench().pair.target
    prompt, ids = [1, 2], [4, 5, 4, 7, 1]
    expected = []
    for place, token in enumerate(ids):
        expected.append(log_softmax(target.forward([*prompt, *ids[:place]], 1).logits[0])[token])
    whole = read_output(target, Sampling(1.0), prompt, ids, VOCAB)
    assert whole.log_likelihood == pytest.approx(np.mean(expected))
    monkeypatch.setattr(quality, "_ROWS", 2)
    assert read_output(target, Sampling(1.0), prompt, ids, VOCAB) == whole


def test_greedy_text_of_the_target_matches_its_own_choice():
    bench = toy_bench(temperature=0.0)
    tokens = [1]
    for _ in range(6):
        tokens.append(int(np.argmax(bench.pair.target.forward(tokens, 1).logits[0])))
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
    logits = np.log(np.array([peak, 1 - peak]))
    return Proposal(token, Law(np.array([peak, 1 - peak])), logits, None, None, None)


def drafted(gate, *pairs):
    draft = Draft()
    for token, peak in pairs:
        draft.append(proposal(token, peak))
        draft.settle(*gate.vouch(draft))
    return draft


def test_big_little_decoding_stops_at_a_doubt_and_lets_the_target_write_that_token():
    gate = FallbackGate(0.7)
    sure, unsure = drafted(gate, (0, 0.9)), drafted(gate, (0, 0.9), (0, 0.6))
    assert gate.keep_drafting(sure) and not gate.keep_drafting(unsure)
    assert not unsure.all_vouched and unsure.vouched == [False, False]
    rule = RollbackRule(0.7, rollback=2.0, sampling=Sampling(0.0))
    laws = [Law(np.array([0.8, 0.2])), Law(np.array([0.3, 0.7])), Law(np.array([1.0, 0.0]))]
    verdict = rule.judge(unsure, laws, Dice(np.random.default_rng(0)))
    assert (verdict.num_kept, verdict.next_token) == (1, 1)


def test_big_little_decoding_goes_back_to_what_the_target_finds_unlikely():
    gate, rule = FallbackGate(0.5), RollbackRule(0.5, rollback=2.0, sampling=Sampling(0.0))
    draft = drafted(gate, (0, 0.9), (1, 0.9))
    laws = [Law(np.array([0.1, 0.9])), Law(np.array([0.5, 0.5])), Law(np.array([0.5, 0.5]))]
    verdict = rule.judge(draft, laws, Dice(np.random.default_rng(0)))  # -log 0.1 = 2.3 nats
    assert (verdict.num_kept, verdict.next_token) == (0, 1)
    kept = rule.judge(draft, [Law(np.array([0.2, 0.8])), *laws[1:]], Dice(np.random.default_rng(0)))
    assert kept.num_kept == 2


@pytest.mark.parametrize("bad", [lambda: FallbackGate(1.5), lambda: RollbackRule(0.5, 0.0, Sampling())])
def test_thresholds_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError):
        bad()
