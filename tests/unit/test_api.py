"""The Python interface: the same words as the command line, one account of everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sprinter import Sprinter
from sprinter.errors import BackendError, ConfigError, SprinterError
from tests.support.tiny import CONTEXT, EOS, build_model, edit_json, save_model, save_tokenizer

METHODS: list[dict[str, Any]] = [
    {"method": "target"},
    {"method": "draft"},
    {"method": "exact"},
    {"method": "lossless", "scorer": "confidence"},
    {"method": "sprinter", "scorer": "confidence", "threshold": 0.1},
    {"method": "sprinter", "scorer": "certainty", "preset": "paper"},
    {"method": "lookahead", "scorer": "margin", "threshold": 0.1, "lookahead": 0.0},
]


@pytest.fixture(scope="module")
def writer(tiny_pair: tuple[Path, Path]) -> Sprinter:
    draft, target = tiny_pair
    return Sprinter.from_pretrained(draft=draft, target=target)


@pytest.mark.parametrize("how", METHODS, ids=lambda how: how["method"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_generation_adds_up(writer: Sprinter, how: dict[str, Any], temperature: float) -> None:
    made = writer.generate("the land", max_new_tokens=30, temperature=temperature, seed=3, **how)
    assert made.text == "".join(t.text for t in made.tokens)
    assert made.text == writer.pair.tokenizer.decode([t.id for t in made.tokens]).rstrip("�")
    assert made.num_tokens <= 30
    assert (made.finish_reason == "length") == (made.num_tokens == 30 and made.tokens[-1].id != 1)
    assert made.prompt == "the land"
    assert made.num_prompt_tokens == len(writer.pair.tokenizer.encode("the land"))
    assert made.counters.draft_tokens == 0 or made.counters.draft_steps > 0
    assert made.audit is not None
    assert made.audit.tokens_audited + made.audit.tokens_unaudited == made.num_tokens
    origins = {t.origin for t in made.tokens}
    allowed = {
        "target": {"target"},
        "draft": {"vouched"},
        "exact": {"tested", "resampled", "bonus"},
        "lossless": {"tested", "resampled", "bonus"},
    }
    assert origins <= allowed.get(how["method"], {"vouched", "tested", "resampled", "bonus"})


@pytest.mark.parametrize("how", METHODS, ids=lambda how: how["method"])
def test_a_seed_repeats_its_text_and_another_changes_it(writer: Sprinter, how: dict[str, Any]) -> None:
    settings = {"max_new_tokens": 16, "temperature": 1.5, **how}
    texts = [[t.id for t in writer.generate("in", seed=seed, **settings).tokens] for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_a_stream_hands_out_the_tokens_of_its_generation(writer: Sprinter) -> None:
    stream = writer.stream("the land", method="exact", max_new_tokens=12)
    tokens = list(stream)
    assert tuple(tokens) == stream.generation.tokens
    assert stream.generation is stream.generation


@pytest.mark.parametrize("read", range(1, 6))
def test_a_half_read_stream_is_finished_by_its_generation(tiny_pair: tuple[Path, Path], read: int) -> None:
    # A draft that is its target: every round hands out several tokens, and reading stops among them.
    writer = Sprinter.from_pretrained(draft=tiny_pair[1], target=tiny_pair[1])
    stream = writer.stream("the land", method="exact", max_new_tokens=12)
    first = [next(iter(stream)) for _ in range(read)]
    made = stream.generation
    whole = writer.generate("the land", method="exact", max_new_tokens=12)
    assert list(made.tokens[:read]) == first
    assert made.tokens == whole.tokens


def test_the_first_token_streams_before_the_target_has_read_anything(writer: Sprinter) -> None:
    stream = writer.stream("the land", method="sprinter", scorer="confidence", threshold=0.0, max_new_tokens=10)
    first = next(iter(stream))
    assert first.origin == "vouched"
    assert stream.text.counters.target_calls == 0


@pytest.mark.parametrize("prompt", [" ", "\n", "🚀", "\x00", "\x1b[31mred", "\udcff", "<s></s>"])
def test_any_prompt_can_be_gone_on_from(writer: Sprinter, prompt: str) -> None:
    assert writer.generate(prompt, method="exact", max_new_tokens=5).num_tokens >= 1


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(writer: Sprinter) -> None:
    with pytest.raises(ConfigError, match=rf"200 tokens, but the models read at most {CONTEXT}"):
        writer.generate("x" * 200, method="exact")


@pytest.mark.parametrize("how", METHODS, ids=lambda how: how["method"])
def test_a_text_ends_where_the_context_window_ends(writer: Sprinter, how: dict[str, Any]) -> None:
    made = writer.generate("x" * (CONTEXT - 3), max_new_tokens=50, temperature=1.0, **how)
    assert made.num_tokens <= 3
    if made.num_tokens < 3:
        assert made.finish_reason == "eos"


def test_end_of_text_ends_the_text_and_is_not_shown(tmp_path: Path) -> None:
    model = build_model("llama")
    with torch.no_grad():  # whatever is read, the end is the most probable token
        model.lm_head.weight.zero_()
        model.model.norm.weight.zero_()
    model.config.tie_word_embeddings = False
    model.save_pretrained(str(tmp_path))
    save_tokenizer(tmp_path)
    edit_json(tmp_path / "generation_config.json", lambda c: c.update(eos_token_id=[0, 1]))
    made = Sprinter.from_pretrained(target=tmp_path, draft=tmp_path).generate("the", method="target")
    assert (made.finish_reason, made.num_tokens, made.text) == ("eos", 1, "")
    assert EOS not in made.text


def test_a_stop_string_ends_the_text_before_itself(writer: Sprinter) -> None:
    whole = writer.generate("the land", method="exact", max_new_tokens=20).text
    stop = whole[4:6]
    made = writer.generate("the land", method="exact", max_new_tokens=20, stop=(stop,))
    assert made.finish_reason == "stop"
    assert made.text == whole[: whole.index(stop)]
    assert made.audit is not None
    assert made.audit.tokens_audited + made.audit.tokens_unaudited == made.num_tokens


@pytest.mark.parametrize("stop", [(), ("a",)], ids=["to the end", "stopped"])
def test_a_closed_audit_leaves_no_token_unseen(writer: Sprinter, stop: tuple[str, ...]) -> None:
    settings: dict[str, Any] = {"method": "draft", "max_new_tokens": 20, "temperature": 1.0, "stop": stop}
    free = writer.generate("the land", **settings).audit
    closed = writer.generate("the land", audit="close", **settings).audit
    assert free is not None
    assert closed is not None
    assert free.tokens_audited == 0
    assert closed.tokens_unaudited == 0
    assert closed.mean_tv is not None


def test_one_sprinter_writes_with_every_method_in_turn(writer: Sprinter) -> None:
    alone = [t.id for t in writer.generate("the", method="target", max_new_tokens=10).tokens]
    for how in METHODS:
        writer.generate("and in the", max_new_tokens=7, temperature=0.7, **how)
    assert [t.id for t in writer.generate("the", method="target", max_new_tokens=10).tokens] == alone


@pytest.mark.parametrize(
    "settings",
    [
        {"temprature": 1.0},
        {"temperature": -1.0},
        {"max_new_tokens": 0},
        {"seed": -1},
        {"method": "magic"},
        {"method": "exact", "threshold": 0.5},
        {"method": "exact", "temperature": "hot"},
        {"method": "exact", "top_k": 2.5},
        {"method": "exact", "stop": "end"},
        {"method": "exact", "stop": ("",)},
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(writer: Sprinter, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=list(settings)[-1].replace("_", ".")):
        writer.generate("the", **settings)


def test_an_unknown_model_setting_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="quantization"):
        Sprinter.from_pretrained(quantization="int4")


def test_a_huge_seed_is_a_seed(writer: Sprinter) -> None:
    assert writer.generate("the", method="exact", max_new_tokens=3, temperature=1.0, seed=2**200).num_tokens > 0


@pytest.mark.parametrize("part", ["target", "draft"])
def test_a_missing_model_is_named(tiny_pair: tuple[Path, Path], part: str) -> None:
    draft, target = tiny_pair
    writer = Sprinter.from_pretrained(**{"draft": draft, "target": target, part: "/nowhere/at-all"})
    with pytest.raises(BackendError, match=f"no {part} model at /nowhere/at-all"):
        writer.generate("the", method="exact")


def test_the_default_verifier_is_not_used_for_another_pair(writer: Sprinter) -> None:
    with pytest.raises(ConfigError, match="default verifier belongs to the default pair"):
        writer.generate("the", method="sprinter")


def test_a_draft_that_knows_fewer_words_than_its_target_is_refused(tmp_path: Path) -> None:
    target = save_model(tmp_path / "target")
    draft = save_model(tmp_path / "draft", vocab_size=200)
    with pytest.raises(SprinterError, match="draft draft knows 200 ids"):
        Sprinter.from_pretrained(target=target, draft=draft).generate("the", method="exact")


def test_a_model_narrower_than_its_tokenizer_refuses_only_prompts_it_cannot_read(tmp_path: Path) -> None:
    target = save_model(tmp_path / "target", vocab_size=260)
    writer = Sprinter.from_pretrained(target=target, draft=target)
    assert writer.generate("xyz", method="target", max_new_tokens=3).num_tokens > 0
    with pytest.raises(ConfigError, match="knows only ids below 260"):
        writer.generate(" the and", method="target", max_new_tokens=3)
