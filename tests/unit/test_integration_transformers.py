"""`target.generate(custom_generate=...)`: what it obeys, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TextIteratorStreamer,
)

from sprinter.errors import ConfigError
from sprinter.integrations.transformers import SprinterGenerate

PROMPT = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def target(tiny_pair: tuple[Path, Path]) -> Any:
    return AutoModelForCausalLM.from_pretrained(str(tiny_pair[1]))


@pytest.fixture
def loop(tiny_pair: tuple[Path, Path]) -> SprinterGenerate:
    return SprinterGenerate(tiny_pair[1], tiny_pair[0], method="exact")


@pytest.mark.parametrize(
    "asked", [{}, {"repetition_penalty": 1.5}, {"max_length": 9}, {"eos_token_id": list(range(90))}]
)
def test_greedy_text_equals_the_library_s_own(target: Any, loop: SprinterGenerate, asked: dict[str, Any]) -> None:
    settings = {"do_sample": False, **({"max_new_tokens": 20} if "max_length" not in asked else {}), **asked}
    wanted = target.generate(PROMPT, **settings)
    made = target.generate(PROMPT, custom_generate=loop, **settings)
    assert made.tolist() == wanted.tolist()
    assert loop.audit is not None


def test_sampling_obeys_the_generation_config(target: Any, loop: SprinterGenerate) -> None:
    narrow = {"do_sample": True, "top_k": 1, "max_new_tokens": 12}
    greedy = target.generate(PROMPT, do_sample=False, max_new_tokens=12).tolist()
    assert target.generate(PROMPT, custom_generate=loop, **narrow).tolist() == greedy
    wide = {"do_sample": True, "temperature": 3.0, "top_k": 0, "max_new_tokens": 12}
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(target.generate(PROMPT, custom_generate=loop, **wide).tolist())
    assert texts[0] == texts[1] != texts[2]


def test_sprinter_writes_and_tells_its_cost(target: Any, tiny_pair: tuple[Path, Path]) -> None:
    loop = SprinterGenerate(tiny_pair[1], tiny_pair[0], method="sprinter", scorer="confidence", threshold=0.05)
    made = target.generate(PROMPT, custom_generate=loop, do_sample=False, max_new_tokens=20)
    assert made.shape[0] == 1
    assert loop.audit is not None
    assert loop.audit.tokens_audited + loop.audit.tokens_unaudited == made.shape[1] - PROMPT.shape[1]


def test_a_streamer_hears_every_token(target: Any, loop: SprinterGenerate) -> None:
    heard: list[int] = []

    class Ear:
        def put(self, value: torch.Tensor) -> None:
            heard.extend(value.flatten().tolist())

        def end(self) -> None:
            heard.append(-1)

    asked = GenerationConfig(do_sample=False, max_length=10, eos_token_id=1)
    made = loop(target, PROMPT, generation_config=asked, streamer=Ear())
    assert heard == [*made[0, 4:].tolist(), -1]


class Stranger(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"num_beams": 2}, "num_beams"),
        ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
        ({"typical_p": 0.5, "do_sample": True}, "typical_p"),
        ({"min_new_tokens": 3}, "min_new_tokens"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"bad_words_ids": [[3]]}, "bad_words_ids"),
        ({"inputs": PROMPT.repeat(2, 1)}, "batch has 2"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1]])}, "padded"),
        ({"logits_processor": LogitsProcessorList([Stranger()])}, "Stranger"),
        ({"logits_processor": LogitsProcessorList([TemperatureLogitsWarper(0.5)])}, "TemperatureLogitsWarper"),
        ({"position_ids": torch.tensor([[2, 3, 4, 5]])}, "position_ids"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_obeyed_is_refused_by_name(
    target: Any, loop: SprinterGenerate, asked: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        target.generate(**{"inputs": PROMPT, "custom_generate": loop, "max_new_tokens": 4, **asked})


def test_the_loop_takes_another_model_s_place_only_for_that_call(target: Any, loop: SprinterGenerate) -> None:
    before = target.generate(PROMPT, do_sample=False, max_new_tokens=8).tolist()
    target.generate(PROMPT, custom_generate=loop, do_sample=False, max_new_tokens=8)
    assert target.generate(PROMPT, do_sample=False, max_new_tokens=8).tolist() == before


def test_an_exact_rule_costs_nothing_by_its_audit(target: Any, loop: SprinterGenerate) -> None:
    target.generate(PROMPT, custom_generate=loop, do_sample=True, max_new_tokens=40)
    assert loop.audit is not None
    assert (loop.audit.mean_tv, loop.audit.tv_upper) == (0, 0)


class AfterThree(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= PROMPT.shape[1] + 3)


@pytest.mark.parametrize("criterion", [AfterThree(), MaxLengthCriteria(PROMPT.shape[1] + 3)])
def test_a_caller_s_stopping_criterion_stops_the_text(target: Any, loop: SprinterGenerate, criterion: Any) -> None:
    asked = {"do_sample": False, "max_new_tokens": 20, "stopping_criteria": StoppingCriteriaList([criterion])}
    assert target.generate(PROMPT, custom_generate=loop, **asked).shape[1] == PROMPT.shape[1] + 3


def test_a_streamer_given_to_generate_hears_every_token_and_the_end(
    target: Any, loop: SprinterGenerate, tiny_pair: tuple[Path, Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_pair[1]))
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=10)
    made = target.generate(PROMPT, custom_generate=loop, do_sample=False, max_new_tokens=8, streamer=streamer)
    assert "".join(streamer) == tokenizer.decode(made[0, PROMPT.shape[1] :])


def test_a_cache_with_tokens_and_another_assistant_are_refused(target: Any, loop: SprinterGenerate) -> None:
    cache = DynamicCache(config=target.config)
    target(PROMPT, past_key_values=cache)
    asked = GenerationConfig(do_sample=False, max_length=10)
    with pytest.raises(ConfigError, match="past_key_values"):
        loop(target, PROMPT, generation_config=asked, past_key_values=cache)
    with pytest.raises(ConfigError, match="assistant_model"):
        target.generate(PROMPT, custom_generate=loop, max_new_tokens=4, assistant_model=target)
