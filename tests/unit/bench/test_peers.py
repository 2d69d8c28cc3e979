"""Peers get the same weights and the same sampling, are counted by hooks, and write what we write."""

from __future__ import annotations

import dataclasses
import sys
import types

import pytest
import torch

from sprinter.bench import peers
from sprinter.bench.apart import Apart
from sprinter.bench.bench import BenchConfig, Stage
from sprinter.bench.methods import Bench, make_method, parse_specs
from sprinter.build import Pair
from sprinter.config import ModelConfig
from sprinter.core.sampling import Sampling
from sprinter.errors import BackendError, ConfigError
from sprinter.learn.prompts import Prompt
from tests.unit.learn.tiny_models import save_model

PROMPT = Prompt("p", "t", "w1 w2 w3 w4 w5", "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("pair")
    return save_model(place / "target", "llama", 1), save_model(place / "draft", "llama", 2)


def stage_of(folders, temperature=0.0):
    target, draft = map(str, folders)
    models = ModelConfig(target, draft, "none", backend="hf", weights="float32")
    bench = Bench(Pair(models), Sampling(temperature))
    return Stage(bench, BenchConfig(max_new_tokens=8), [PROMPT])


def measure(stage, text):
    """A run, a peer's in this very process."""
    (spec,) = parse_specs(text)
    method = peers.MAKERS.get(spec.kind, make_method)(spec, stage.bench)
    record = stage.measure(method, stage.task(PROMPT, 0))
    assert "error" not in record, record["error"]
    return record


def test_greedy_peers_write_the_same_text_and_are_counted(folders):
    stage = stage_of(folders)
    ours, plain, assisted = (measure(stage, name) for name in ("target", "hf", "hf-assisted"))
    assert ours["ids"] == plain["ids"] == assisted["ids"]
    assert plain["counters"]["target_calls"] == ours["counters"]["target_calls"]
    assert plain["counters"]["target_tokens"] == ours["counters"]["target_tokens"]
    assert assisted["counters"]["draft_steps"] > 0
    assert assisted["counters"]["target_calls"] <= 8
    assert plain["mismatch"] == 0


def test_a_peer_apart_writes_the_same_and_its_death_costs_one_run(folders):
    stage = stage_of(folders)
    here = measure(stage, "hf")
    (spec,) = parse_specs("hf")
    method = make_method(spec, stage.bench)
    assert isinstance(method, Apart)
    assert method.facts == peers.MAKERS["hf"](spec, stage.bench).facts
    first = stage.measure(method, stage.task(PROMPT, 0))
    for part in ("ids", "tested", "delta", "flops", "log_likelihood"):
        assert first[part] == here[part]
    counted = ("target_calls", "target_tokens", "draft_steps", "draft_tokens")
    assert [first["counters"][name] for name in counted] == [here["counters"][name] for name in counted]
    assert 0 < first["counters"]["target_s"] < first["seconds"]
    process = method._process
    too_long = stage.measure(method, dataclasses.replace(stage.task(PROMPT, 0), prompt=(10**9,)))
    assert "IndexError" in too_long["error"] and method._process is process, "an error in the peer leaves it alive"
    process.kill()
    process.wait()
    assert "error" not in stage.measure(method, stage.task(PROMPT, 0)), "a dead one is started anew"

    last = method._process

    def fatal(ids):
        last.kill()

    method.prepare(stage.task(PROMPT, 0))
    with pytest.raises(BackendError, match=r"the process of hf ended \(exit code -9\)"):
        while True:
            method.write(stage.task(PROMPT, 0), fatal)
    del method
    assert last.wait(10) is not None


def test_a_peer_apart_refuses_in_the_same_words(folders):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        make_method(parse_specs("hf-ensemble:1.5")[0], stage_of(folders).bench)


def test_an_ensemble_weight_is_lossy_and_says_so(folders):
    record = measure(stage_of(folders, 1.0), "hf-ensemble:0.3")
    assert record["delta"] is None
    with pytest.raises(ConfigError, match="between 0 and 1"):
        measure(stage_of(folders), "hf-ensemble:1.5")


def test_a_partial_head_has_the_same_logits_and_nothing_elsewhere():
    full = torch.nn.Linear(4, 6, bias=False)
    ids = torch.tensor([1, 4])
    head = peers._subset_head()(full, ids)
    hidden = torch.randn(1, 3, 4)
    logits, expected = head(hidden), full(hidden)
    assert torch.allclose(logits[..., ids], expected[..., ids])
    law = torch.softmax(logits, -1)
    assert torch.equal(law[..., [0, 2, 3, 5]], torch.zeros(1, 3, 4))


class FakeLlama:
    """llama-cpp-python's interface as far as it is used: writes 11, 12, ... and evaluates each token once."""

    def __init__(self, **options):
        self.options = options

    def reset(self):
        pass

    def set_seed(self, seed):
        pass

    def eval(self, tokens):
        self.seen = len(tokens)

    def generate(self, tokens, **_options):
        self.eval(tokens)
        token = 10
        while True:
            token += 1
            yield token
            self.eval([token])


def test_llama_cpp_is_counted_by_its_evaluations(folders, monkeypatch):
    fake = types.ModuleType("llama_cpp")
    fake.Llama, fake.__version__ = FakeLlama, "0"
    monkeypatch.setitem(sys.modules, "llama_cpp", fake)
    monkeypatch.setattr(peers, "_gguf_of", lambda pair: folders[0])
    record = measure(stage_of(folders), "llamacpp")
    assert record["ids"] == list(range(11, 19))
    assert record["counters"]["target_calls"] == 8
    assert record["counters"]["target_tokens"] == 5 + 7


def test_a_peer_that_is_not_installed_says_what_to_install(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(ConfigError, match="pip install"):
        measure(stage_of(folders), "llamacpp")
