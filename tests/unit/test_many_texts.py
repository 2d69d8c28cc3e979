"""Lists, threads, asynchronous programs, cancelling: many texts of one Sprinter, none changed by another."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sprinter import Generation, Request, Sprinter
from sprinter.api import Settings
from sprinter.certify.choose import Wish
from sprinter.config import DecodingConfig, GenerationConfig
from sprinter.errors import BatchError, ConfigError
from sprinter.native.library import library
from tests.support.tiny import save_model

PROMPTS = ["the land", "in", "a sea of and", "of", "and the", "the the the", "land in the"]
METHODS: list[dict[str, Any]] = [
    {"method": "exact", "temperature": 1.0},
    {"method": "sprinter", "scorer": "confidence", "threshold": 0.1},
    {"method": "lookahead", "scorer": "margin", "threshold": 0.1, "lookahead": 0.0, "temperature": 0.9},
    {"method": "sprinter", "scorer": "confidence", "budget": 20, "temperature": 1.0},
]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Sprinter:
    """A pair on the compiled pass, whose bits do not depend on company."""
    if library() is None:
        pytest.skip("no C++ compiler or no AVX2 here")
    place = tmp_path_factory.mktemp("many")
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    draft = save_model(place / "draft", "llama", seed=1, num_hidden_layers=1, **sizes)
    target = save_model(place / "target", "llama", seed=2, **sizes)
    return Sprinter.from_pretrained(draft=draft, target=target, backend="fast", weights="int8")


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads change over as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def told(made: Generation) -> tuple[Any, ...]:
    return made.prompt, tuple((t.id, t.text, t.origin, t.score) for t in made.tokens), made.finish_reason, made.audit


def alone(writer: Sprinter, place: int, **more: Any) -> tuple[Any, ...]:
    settings = {"max_new_tokens": 12, "seed": place, **METHODS[place % len(METHODS)], **more}
    return told(writer.generate(PROMPTS[place % len(PROMPTS)], **settings))


def test_a_list_gives_a_list_in_its_order_as_each_alone(writer: Sprinter) -> None:
    how = {"method": "exact", "max_new_tokens": 9, "temperature": 1.0}
    made = writer.generate(PROMPTS, seed=5, **how)
    assert [told(m) for m in made] == [told(writer.generate(p, seed=5 + n, **how)) for n, p in enumerate(PROMPTS)]
    assert writer.generate([], **how) == []


def test_texts_of_a_list_may_differ_in_everything(writer: Sprinter) -> None:
    requests = [
        Request(PROMPTS[n % len(PROMPTS)], {"seed": n, "max_new_tokens": 12, **METHODS[n % len(METHODS)]})
        for n in range(20)
    ]
    assert [told(m) for m in writer.generate(requests)] == [alone(writer, n) for n in range(20)]


def test_messages_are_a_chat(writer: Sprinter) -> None:
    said = [{"role": "system", "content": "land"}, {"role": "user", "content": "the sea"}]
    made = writer.generate(said, method="exact", max_new_tokens=5)
    assert made.prompt == "the sea"
    assert made.num_prompt_tokens == len(writer.pair.tokenizer.encode_chat(said))
    listed = writer.generate([said, "in"], method="exact", max_new_tokens=5)
    assert told(listed[0]) == told(made)
    one = writer.generate("the sea", chat=True, method="exact", max_new_tokens=5)
    assert told(one) == told(writer.generate(said[1:], method="exact", max_new_tokens=5))


def test_an_impossible_entry_fails_alone_with_its_place(writer: Sprinter) -> None:
    prompts: list[Any] = ["the", "", "in", "x" * 300, Request("of", {"colour": 1}), None]  # type: ignore[typeddict-unknown-key]
    with pytest.raises(BatchError, match=r"text 1 of 6: the prompt is empty.*4 failed") as failed:
        writer.generate(prompts, method="exact", max_new_tokens=4)
    assert sorted(failed.value.errors) == [1, 3, 4, 5]
    assert [type(found) is Generation for found in failed.value.results] == [True, False, True, False, False, False]


def test_threads_that_share_a_sprinter_mix_no_texts(writer: Sprinter, hasty: None) -> None:
    wanted = [alone(writer, n) for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda n: alone(writer, n), range(24))) == wanted


def test_live_streams_read_in_turn_do_not_change_each_other(writer: Sprinter) -> None:
    wanted = [alone(writer, n) for n in range(8)]
    streams = [
        writer.stream(PROMPTS[n % len(PROMPTS)], seed=n, max_new_tokens=12, **METHODS[n % len(METHODS)])
        for n in range(8)
    ]
    left = list(streams)
    while left:
        left = [stream for stream in left if next(stream, None) is not None]
    assert [told(stream.generation) for stream in streams] == wanted


def test_a_closed_stream_keeps_what_was_written_and_the_others_go_on(writer: Sprinter) -> None:
    streams = [writer.stream(p, method="exact", max_new_tokens=20, seed=1, temperature=1.0) for p in PROMPTS[:3]]
    for stream in streams:
        next(stream)
    streams[1].close()
    assert streams[1].generation.finish_reason == "cancelled"
    assert streams[1].generation.num_tokens >= 1
    for place in (0, 2):
        whole = writer.generate(PROMPTS[place], method="exact", max_new_tokens=20, seed=1, temperature=1.0)
        assert told(streams[place].generation) == told(whole)
    streams[1].close()


def test_a_stream_closed_by_another_thread_ends_its_reader(writer: Sprinter) -> None:
    stream = writer.stream("the land", method="target", max_new_tokens=80)
    heard: list[Any] = []
    started = threading.Event()

    def listen() -> None:
        for token in stream:
            heard.append(token)
            started.set()

    reader = threading.Thread(target=listen)
    reader.start()
    assert started.wait(10)
    stream.close()
    reader.join(10)
    assert not reader.is_alive()
    assert 1 <= len(heard) <= 80


def test_asynchronous_texts_are_the_same_texts(writer: Sprinter) -> None:
    async def all_at_once() -> list[Generation]:
        jobs = [
            writer.agenerate(PROMPTS[n % len(PROMPTS)], seed=n, max_new_tokens=12, **METHODS[n % len(METHODS)])
            for n in range(12)
        ]
        return await asyncio.gather(*jobs)

    assert [told(made) for made in asyncio.run(all_at_once())] == [alone(writer, n) for n in range(12)]


def test_leaving_an_asynchronous_loop_ends_the_text(writer: Sprinter) -> None:
    async def first_three() -> list[int]:
        heard = []
        tokens = writer.astream("the land", method="exact", max_new_tokens=30)
        async for token in tokens:
            heard.append(token.id)
            if len(heard) == 3:
                break
        await tokens.aclose()
        return heard

    whole = writer.generate("the land", method="exact", max_new_tokens=30)
    assert asyncio.run(first_three()) == [t.id for t in whole.tokens][:3]


def test_the_typed_settings_are_the_settings() -> None:
    fields = [f.name for part in (DecodingConfig, GenerationConfig, Wish) for f in dataclasses.fields(part)]
    assert sorted(Settings.__annotations__) == sorted(fields)


def test_a_generation_shows_itself(writer: Sprinter) -> None:
    made = writer.generate("<b>the", method="exact", max_new_tokens=30)
    assert str(made) == made.text
    assert len(repr(made)) < 160 and "exact" in repr(made)
    page = made._repr_html_()
    assert "&lt;b&gt;the" in page and "<b>the" not in page
    assert page.count("<span") == made.num_tokens


def test_a_batch_of_none_is_refused(writer: Sprinter) -> None:
    with pytest.raises(ConfigError, match="batch is 0"):
        list(writer.generate_many(["in"], batch=0))
