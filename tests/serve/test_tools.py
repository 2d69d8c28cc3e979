"""Calls of tools: told to the template, taken from the text, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sprinter.models.tokenizer import Tokenizer
from sprinter.serve.tools import calls_in, shown
from tests.serve.conftest import TEMPLATE, Served, serving, toy_sprinter

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": [1, {"deep": 2}]}}\n</tool_call>'


def test_calls_are_taken_out_of_the_text() -> None:
    left, (call,) = calls_in(f"Let me see. {CALL} ")
    assert (left, call["type"], call["function"]["name"]) == ("Let me see.", "function", "look")
    assert json.loads(call["function"]["arguments"]) == {"at": [1, {"deep": 2}]}
    assert [c["function"]["name"] for c in calls_in(CALL + CALL)[1]] == ["look", "look"]
    for broken in ("<tool_call>{</tool_call>", '<tool_call>{"name": 3}</tool_call>', "<tool_call>" + CALL[11:20], "{}"):
        assert calls_in(broken) == (broken, [])


@pytest.mark.parametrize("size", range(1, len(CALL)))
def test_nothing_of_a_call_is_shown_before_it_is_known(size: int) -> None:
    text = f"a < b {CALL}"
    assert shown(text[: 6 + size]) == "a < b "
    assert shown("a < b") == "a < b"
    assert shown("a <to") == "a "


@pytest.fixture(scope="module")
def calling() -> Iterator[Served]:
    """A server whose model knows tools, and whose word w1 is a call."""
    sprinter = toy_sprinter()
    known = sprinter.pair.tokenizer
    text = known.fast.to_str().replace('"w1":1', f"{json.dumps('Ġ' + CALL.replace(chr(10), 'Ċ').replace(' ', 'Ġ'))}:1")
    fast = type(known.fast).from_str(text)
    template = TEMPLATE + "{% if tools %}w2 {% endif %}"
    sprinter.pair.__dict__["tokenizer"] = Tokenizer(fast, None, frozenset(), template, {})
    with serving(sprinter=sprinter) as found:
        yield found


def test_a_model_that_calls_is_answered_with_calls(calling: Served) -> None:
    ask: dict[str, Any] = {"messages": [{"role": "user", "content": "w2"}], "max_tokens": 200, "seed": 2}
    plain = calling.post("/v1/chat/completions", **ask, tools=[TOOL], tool_choice="none").json()
    told = calling.post("/v1/chat/completions", **ask, tools=[TOOL]).json()
    assert told["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"] + 1
    (choice,) = told["choices"]
    assert choice["finish_reason"] == "tool_calls"
    names = {call["function"]["name"] for call in choice["message"]["tool_calls"]}
    assert names == {"look"}
    assert "<tool_call>" not in (choice["message"]["content"] or "")
    lines = calling.post("/v1/chat/completions", **ask, tools=[TOOL], stream=True).text.split("\n\n")[:-2]
    pieces = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
    assert pieces[-1]["finish_reason"] == "tool_calls"
    calls = pieces[-1]["delta"]["tool_calls"]
    assert [c["function"] for c in calls] == [c["function"] for c in choice["message"]["tool_calls"]]
    assert "<tool_call>" not in "".join(piece["delta"].get("content", "") for piece in pieces)


def test_a_template_without_tools_refuses_them(served: Served) -> None:
    answer = served.post("/v1/chat/completions", messages=[{"role": "user", "content": "w1"}], tools=[TOOL])
    assert (answer.status_code, "knows no tools" in answer.text) == (400, True)
