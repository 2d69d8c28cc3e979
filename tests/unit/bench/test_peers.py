"""Peers get the same weights and the same sampling, are counted by hooks, and write what we write."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from sprinter.bench import peers
from sprinter.bench.bench import BenchConfig, Stage
from sprinter.bench.methods import Bench, make_method, parse_specs
from sprinter.build import Pair
from sprinter.config import ModelConfig
from sprinter.core.sampling import Sampling
from sprinter.errors import ConfigError
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
    (spec,) = parse_specs(text)
    record = stage.measure(make_method(spec, stage.bench), stage.task(PROMPT, 0))
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
