"""The setting draft_chunk: what it changes (the steps that run), what it does not (the text), where it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sprinter import Sprinter
from sprinter.build import DEFAULT_CUDA_CHUNK, Pair, build_engine, chunk_length
from sprinter.config import DecodingConfig, ModelConfig
from sprinter.core.records import Generation
from sprinter.core.sampling import Sampling
from sprinter.drafters.model import ModelDrafter
from sprinter.errors import ConfigError
from sprinter.gates.verifier import Verifier
from sprinter.models.fast.model import FastModel
from tests.support.tiny import WIDTH, save_model
from tests.support.verifiers import ALL_FEATURES, random_verifier

METHODS: list[dict[str, Any]] = [
    {"method": "draft"},
    {"method": "exact", "draft_length": 5},
    {"method": "lossless"},
    {"method": "sprinter", "threshold": 0.5},
    {"method": "sprinter", "scorer": "confidence", "threshold": 0.1},
    {"method": "lookahead", "scorer": "margin", "threshold": 0.1, "lookahead": 0.0},
    {"method": "sprinter", "budget": 30.0},
]


@pytest.fixture
def writer(tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Sprinter:
    def verifier(self: Pair, output: str) -> Verifier:
        return random_verifier(WIDTH, ALL_FEATURES)

    monkeypatch.setattr(Pair, "verifier", verifier)
    draft, target = tiny_pair
    return Sprinter.from_pretrained(draft=draft, target=target, backend="fast", weights="float32")


def told(made: Generation) -> list[tuple[int, str]]:
    return [(t.id, t.origin) for t in made.tokens]


@pytest.mark.parametrize("how", METHODS, ids=lambda how: f"{how['method']} {how.get('scorer', '')}".strip())
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_every_method_writes_the_same_in_chunks(writer: Sprinter, how: dict[str, Any], temperature: float) -> None:
    plain, chunked = (
        writer.generate("the land", max_new_tokens=20, temperature=temperature, seed=3, draft_chunk=length, **how)
        for length in (1, 4)
    )
    assert told(chunked) == told(plain)
    for mine, own in zip(chunked.tokens, plain.tokens, strict=True):
        assert mine.score == pytest.approx(own.score, abs=1e-5)
    assert chunked.counters.draft_steps % 4 == 0
    assert plain.counters.draft_steps == plain.counters.gate_steps == chunked.counters.gate_steps


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"backend": "hf"}, {}, "--backend fast"),
    ({"weights": "float32"}, {"temperature": 1.0, "top_p": 0.9}, "top-p"),
    ({"weights": "float32"}, {"repetition_penalty": 1.2}, "repetition penalty"),
]


def refuse(pair: Pair, sampling: Sampling, words: str) -> None:
    """A chunk that is asked for is refused in these words, and unasked none is chosen."""
    with pytest.raises(ConfigError, match=f"draft_chunk is 4, but .*{words}"):
        chunk_length(pair, DecodingConfig(method="exact", draft_chunk=4), sampling)
    assert chunk_length(pair, DecodingConfig(method="exact"), sampling) == 1


@pytest.mark.parametrize(("models", "sampling", "words"), REFUSED)
def test_a_chunk_that_cannot_be_is_refused(
    tiny_pair: tuple[Path, Path], models: dict[str, Any], sampling: dict[str, Any], words: str
) -> None:
    draft, target = tiny_pair
    pair = Pair(ModelConfig(draft=str(draft), target=str(target), **models))
    refuse(pair, Sampling(**{"temperature": 0.0, **sampling}), words)


def test_two_scores_a_token_are_not_chunked(tiny_pair: tuple[Path, Path]) -> None:
    draft, target = tiny_pair
    pair = Pair(ModelConfig(draft=str(draft), target=str(target), backend="fast", weights="float32"))
    both = DecodingConfig(method="lookahead", scorer="typical", draft_chunk=4)
    with pytest.raises(ConfigError, match="typical vouches while accept tells"):
        chunk_length(pair, both, Sampling(0.0))
    alone = DecodingConfig(method="sprinter", scorer="typical", draft_chunk=4)
    assert chunk_length(pair, alone, Sampling(0.0)) == 4


def test_the_compiled_pass_has_no_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPRINTER_CACHE", str(tmp_path / "cache"))  # where quantised weights are kept
    folder = save_model(tmp_path / "model", intermediate_size=64)
    pair = Pair(ModelConfig(draft=str(folder), target=str(folder), weights="int8"))
    if not (isinstance(pair.draft, FastModel) and pair.draft.compiled):
        pytest.skip("no C++ compiler or no AVX2 here")
    refuse(pair, Sampling(0.0), "--weights float32")


def test_on_cuda_a_chunk_is_the_default_where_it_can_be_and_no_longer_than_a_round(
    tiny_pair: tuple[Path, Path],
) -> None:
    draft, target = tiny_pair
    pair = Pair(ModelConfig(draft=str(draft), target=str(target), device="cuda"))
    # The draft of the CPU stands in: what is chosen depends on the device's name and on what the draft can do.
    pair.__dict__["draft"] = Pair(ModelConfig(draft=str(draft), target=str(target), weights="float32")).draft
    greedy = Sampling(0.0)
    assert chunk_length(pair, DecodingConfig(), greedy) == DEFAULT_CUDA_CHUNK
    assert chunk_length(pair, DecodingConfig(draft_chunk=1), greedy) == 1
    assert chunk_length(pair, DecodingConfig(), Sampling(1.0, top_k=3)) == 1
    assert chunk_length(pair, DecodingConfig(method="exact", draft_length=2), greedy) == 2
    assert chunk_length(pair, DecodingConfig(draft_chunk=16, max_draft=6), greedy) == 6
    assert chunk_length(pair, DecodingConfig(method="draft", draft_chunk=32), greedy) == 32
    assert chunk_length(pair, DecodingConfig(method="target"), greedy) == 1


@pytest.mark.parametrize(("features", "looks"), [(ALL_FEATURES, True), (("hidden", "entropy"), False)])
def test_echoes_are_looked_for_where_the_verifier_reads_them(
    tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], looks: bool
) -> None:
    monkeypatch.setattr(Pair, "verifier", lambda self, output: random_verifier(WIDTH, features))
    draft, target = tiny_pair
    pair = Pair(ModelConfig(draft=str(draft), target=str(target), backend="fast", weights="float32"))
    for method, looked in (("sprinter", looks), ("exact", False)):
        drafter = build_engine(pair, DecodingConfig(method=method), Sampling(0.0)).drafter
        assert isinstance(drafter, ModelDrafter)
        assert (drafter._echo is not None) == looked
