"""The server as clients meet it: OpenAI's own client, contracts, limits, and texts that company does not change."""

from __future__ import annotations

import dataclasses
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sprinter.certify.asked import Asked, setting_of
from sprinter.certify.certificate import Certificate, Claim, GridRow
from sprinter.config import DecodingConfig
from sprinter.core.sampling import Sampling
from sprinter.serve.app import Options
from sprinter.serve.contracts import Terms
from sprinter.serve.requests import CompletionRequest
from tests.serve.conftest import NAME, Served, serving, toy_sprinter

JSON = {"content-type": "application/json"}
CONFIDENT = {"contract": "best_effort", "scorer": "confidence", "threshold": 0.3}


def client(served: Served, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


def error_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


def test_openais_client_completes_and_chats(served: Served) -> None:
    api = client(served)
    assert [model.id for model in api.models.list()] == [NAME]
    made = api.completions.create(model=NAME, prompt="w1 w2", max_tokens=6, temperature=0, logprobs=2)
    assert (made.choices[0].finish_reason, made.usage.completion_tokens, made.usage.prompt_tokens) == ("length", 6, 2)
    assert len(made.choices[0].logprobs.tokens) == 6
    assert all(len(top) == 2 for top in made.choices[0].logprobs.top_logprobs)
    assert made.model_extra["sprinter"][0]["contract"] == "exact"
    chat = api.chat.completions.create(
        model=NAME,
        messages=[{"role": "system", "content": "w1"}, {"role": "user", "content": [{"type": "text", "text": "w2"}]}],
        max_completion_tokens=6,
        temperature=0,
        logprobs=True,
        top_logprobs=1,
    )
    assert chat.choices[0].message.content == made.choices[0].text
    assert [t.logprob for t in chat.choices[0].logprobs.content] == made.choices[0].logprobs.token_logprobs


def test_logprobs_are_the_targets_own(served: Served) -> None:
    told = served.complete([1, 2], max_tokens=5, seed=3, logprobs=3).json()
    target = served.sprinter.pair.target
    found = told["choices"][0]["logprobs"]
    ids = [token["id"] for token in told["sprinter"][0]["tokens"]]
    for place, (token, logprob) in enumerate(zip(ids, found["token_logprobs"], strict=True)):
        law = Sampling().law(target._logits_of((1, 2, *ids[:place])), ())  # type: ignore[attr-defined]
        assert logprob == pytest.approx(float(__import__("numpy").log(law.prob(token))), abs=1e-5)


@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_is_the_answer_in_pieces(served: Served, chat: bool) -> None:
    path = "/v1/chat/completions" if chat else "/v1/completions"
    ask: dict[str, Any] = {"messages": [{"role": "user", "content": "w1"}]} if chat else {"prompt": "w1"}
    ask |= {"max_tokens": 9, "seed": 5, "n": 2, "logprobs": True if chat else 1}
    whole = served.post(path, **ask).json()
    lines = served.post(path, **ask, stream=True, stream_options={"include_usage": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert events[-1]["usage"] == whole["usage"]
    assert events[-1]["choices"] == []
    for index, choice in enumerate(whole["choices"]):
        own = [c for e in events for c in e["choices"] if c["index"] == index]
        text = "".join(c["delta"].get("content", "") if chat else c["text"] for c in own)
        assert text == (choice["message"]["content"] if chat else choice["text"])
        assert [c["finish_reason"] for c in own][-1] == choice["finish_reason"]
        assert all(c["finish_reason"] is None for c in own[:-1])
        pieces = [c["logprobs"] for c in own if c["logprobs"]]
        if chat:
            assert [t for p in pieces for t in p["content"]] == choice["logprobs"]["content"]
        else:
            assert [t for p in pieces for t in p["token_logprobs"]] == choice["logprobs"]["token_logprobs"]
    origins = [t["origin"] for e in events for t in e.get("sprinter", {}).get("tokens", ())]
    assert sorted(origins) == sorted(t["origin"] for one in whole["sprinter"] for t in one["tokens"])


def requests_of(count: int) -> list[dict[str, Any]]:
    """Unlike requests of every contract, greedy and sampled."""
    dice = random.Random(3)
    contracts: list[dict[str, Any]] = [
        {"contract": "exact"},
        {"contract": "best_effort", "method": "lossless", "scorer": "certainty"},
        CONFIDENT,
        {"contract": "best_effort", "method": "bild"},
        {"contract": "best_effort", "method": "spechub"},
        {"contract": "best_effort", "method": "draft"},
        {"contract": "best_effort", "method": "target"},
    ]
    return [
        {
            "prompt": " ".join(f"w{dice.randrange(3)}" for _ in range(dice.choice((2, 5, 60)))),
            "max_tokens": dice.randrange(1, 24),
            "temperature": dice.choice((0.0, 0.7, 1.0)),
            "seed": dice.randrange(1000),
            "sprinter": contracts[place % len(contracts)],
        }
        for place in range(count)
    ]


def told(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found["choices"][0]["text"], [t["origin"] for t in found["sprinter"][0]["tokens"]]


def test_the_same_requests_alone_together_and_among_those_who_leave_get_the_same_texts() -> None:
    asked = requests_of(64)
    with serving(options=Options(NAME, batch=12)) as served:
        alone = [told(served.complete(**ask)) for ask in asked]
        order = list(range(len(asked)))
        random.Random(4).shuffle(order)

        def leave(ask: dict[str, Any]) -> None:
            with httpx.stream(
                "POST", f"{served.url}/v1/completions", json={"model": NAME, **ask, "max_tokens": 400, "stream": True}
            ) as s:
                next(s.iter_bytes())

        with ThreadPoolExecutor(24) as threads:
            leaving = [threads.submit(leave, asked[place]) for place in order[:12]]
            company = dict(
                zip(order, threads.map(lambda place: told(served.complete(**asked[place])), order), strict=True)
            )
            for one in leaving:
                one.result()
    assert [company[place] for place in range(len(asked))] == alone


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temprature": 1}, "temprature: Extra inputs are not permitted"),
        ({"sprinter": {"contract": "certified", "scorer": "confidence"}}, "certified"),
        ({"sprinter": {"contract": "certified", "threshold": 0.5}}, "threshold does nothing"),
        ({"sprinter": {"contract": "sloppy"}}, "sprinter.contract"),
        ({"sprinter": {"max_tv": 0.1}}, "max_tv does nothing with contract 'exact'"),
        ({"sprinter": {"contract": "best_effort", "method": "llma"}}, "copies from references"),
        ({"sprinter": {"contract": "exact", "max_total_tv": 1}}, "loses nothing"),
        ({"sprinter": {"contract": "best_effort", "method": "target"}, "logprobs": 1}, "with contract 'exact' alone"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"echo": True}, "echo"),
        ({"n": 99}, "n: "),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [99]}, "token 99"),
        ({"prompt": [-1]}, "prompt"),
        ({"stop": [""]}, "stop string is empty"),
        ({"stop": ["a\ud800"]}, "half a character"),
        ({"stream_options": {"include_usage": True}}, "stream_options does nothing"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": -3}, "seed"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_error(served: Served, fields: dict[str, Any], words: str) -> None:
    answer = served.complete(**{"prompt": "w1", **fields})
    assert answer.status_code == 400, answer.text
    assert words in error_of(answer)


def test_a_certified_chat_needs_a_certificate_of_chats(tmp_path: Path) -> None:
    plain = certificate(tmp_path, 1.0)
    made = Certificate.load(plain)
    chats = tmp_path / "chats.json"
    dataclasses.replace(made, setting=dataclasses.replace(made.setting, prompts="chat")).save(chats)
    own = {"max_tokens": 8, "sprinter": {"contract": "certified", "scorer": "confidence", "max_tv": 0.3}}
    ask = {"messages": [{"role": "user", "content": "w1"}], **own}
    for file, granted in ((plain, False), (chats, True)):
        with serving(Terms(certificates=file)) as served:
            answer = served.post("/v1/chat/completions", **ask)
            assert (answer.status_code == 200) == granted, answer.text
            assert granted or "about chats it promises nothing" in error_of(answer)
            assert (served.complete("w1", **own).status_code == 200) != granted


def test_a_floor_refuses_what_is_weaker() -> None:
    with serving(Terms(floor="exact")) as served:
        answer = served.complete("w1", sprinter={"contract": "best_effort"})
        assert (answer.status_code, "weaker than this server's floor" in error_of(answer)) == (400, True)


def certificate(folder: Path, temperature: float) -> Path:
    """A certificate for `confidence` on the toys."""
    setting = setting_of(toy_sprinter().pair, DecodingConfig(scorer="confidence"), Asked(Sampling(temperature)))
    row = GridRow(0.4, 300, 0.5, {"tv": 0.2}, {"tv": 0.25})
    claims = [Claim("tv", 0.3, 0.4, [0.01])]
    Certificate(setting, 0.95, "betting", 300, 8, "d" * 64, [row], claims, {}).save(folder / "certificate.json")
    return folder / "certificate.json"


def test_a_certified_text_is_decoded_by_its_certificate_and_watched(tmp_path: Path) -> None:
    file, guard = certificate(tmp_path, 1.0), tmp_path / "guard.db"
    terms = Terms("certified", max_tv=0.3, max_atypical=None, certificates=file, guard=guard)
    own = {"max_tokens": 8, "sprinter": {"scorer": "confidence"}}
    with serving(terms) as served:
        (account,) = served.complete("w1 w2", seed=1, **own).json()["sprinter"]
        assert (account["contract"], account["threshold"]) == ("certified", 0.4)
        assert account["certificate"]["levels"] == {"tv": 0.3}
        assert account["audit"]["tokens_unaudited"] == 0
        for fields, words in (
            ({"max_tokens": 9}, "at most 8 new tokens"),
            ({"temperature": 0.0}, "temperature"),
            ({"sprinter": {"scorer": "confidence", "max_tv": 0.1}}, "tv of at most 0.1"),
            ({"sprinter": {"scorer": "confidence", "confidence": 0.99}}, "0.99"),
            ({"sprinter": {"scorer": "certainty"}}, "scorer"),
        ):
            refused = served.complete("w1 w2", **{**own, **fields})
            assert (refused.status_code, words in error_of(refused)) == (400, True), refused.text
        metrics = httpx.get(f"{served.url}/metrics").text
        assert "sprinter:certified_refused_total 4.0" in metrics
        assert 'sprinter:requests_total{contract="certified",end="length"} 1.0' in metrics
    # What two servers saw stands in one file, and a promise that does not hold is not made again.
    with serving(terms) as one, serving(terms) as other:
        for _ in range(2):
            assert [server.complete("w1 w2", **own).status_code for server in (one, other)] == [200, 200]
        contracts = [server.app.state.contracts for server in (one, other)]
        choice = contracts[0].agree(CompletionRequest(model=NAME, prompt="w1", **own)).choice
        guards = [each._guard(choice, "tv") for each in contracts]
        assert guards[0].look().tokens_total == guards[1].look().tokens_total == 5 * 8
        for _ in range(40):
            guards[0].record([1.0] * 8, choice.threshold)
        (account,) = other.complete("w1 w2", **own).json()["sprinter"]
        assert (account["threshold"], account["method"]) == (None, "exact")
        assert "did not hold" in account["guard"]


def test_keys_models_and_bodies_have_their_own_answers() -> None:
    options = Options(NAME, key="secret", body_bytes=2000)
    with serving(options=options) as served:
        assert served.complete("w1").status_code == 401
        with pytest.raises(openai.AuthenticationError):
            client(served, "wrong").models.list()
        api = client(served, "secret")
        assert api.completions.create(model=NAME, prompt="w1", max_tokens=1).usage.completion_tokens == 1
        with pytest.raises(openai.NotFoundError, match="no model 'other'"):
            api.completions.create(model="other", prompt="w1")
        held = {"authorization": "Bearer secret"}
        large = json.dumps({"model": NAME, "prompt": "w1 " * 2000})
        for sent in (large.encode(), iter([large.encode()])):
            assert httpx.post(f"{served.url}/v1/completions", content=sent, headers=held).status_code == 413
        assert httpx.get(f"{served.url}/health").json()["healthy"]
        assert httpx.get(f"{served.url}/ready").status_code == 200


def test_a_full_queue_and_a_deadline_are_told() -> None:
    with serving(options=Options(NAME, batch=1, queue=1, deadline_s=0.6)) as served:
        slow = [threading.Thread(target=served.complete, kwargs={"max_tokens": 100_000}) for _ in range(2)]
        slow[0].start()
        time.sleep(0.2)
        slow[1].start()
        time.sleep(0.1)
        answer = served.complete("w1")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        for thread in slow:
            thread.join()
        answer = served.complete("w1", max_tokens=100_000)
        assert (answer.status_code, "deadline" in error_of(answer)) == (504, True)
        assert served.complete("w1", max_tokens=2).status_code == 200


def test_who_leaves_is_not_written_for() -> None:
    with serving(sprinter=toy_sprinter(pause_s=0.01)) as served:
        ask = {"model": NAME, "prompt": "w1", "max_tokens": 100_000, "stream": True}
        with httpx.stream("POST", f"{served.url}/v1/completions", json=ask) as stream:
            next(stream.iter_bytes())
            pump = served.app.state.pump
            assert pump.load[0] == 1
        calls = counted(served)
        end = time.monotonic() + 5
        while pump.load[0] and time.monotonic() < end:
            time.sleep(0.01)
        assert pump.load == (0, 0)
        assert counted(served) - calls < 100


def counted(served: Served) -> int:
    """Target passes so far."""
    return int(served.sprinter.pair.target.passes)  # type: ignore[attr-defined]


def test_prompts_that_begin_alike_are_read_once() -> None:
    sprinter = toy_sprinter()
    long = "w1 w2 w0 " * 30
    with serving(sprinter=sprinter) as served:
        first = served.complete(long + "w1", max_tokens=6, temperature=0).json()
        again = served.complete(long + "w1", max_tokens=6, temperature=0).json()
        other = served.complete(long + "w2", max_tokens=6, temperature=0).json()
        many = served.complete(long + "w1", max_tokens=6, temperature=0, n=3).json()
        lent = served.app.state.pump._prefixes.tokens_lent
    assert {c["text"] for c in many["choices"]} == {first["choices"][0]["text"]} == {again["choices"][0]["text"]}
    assert lent >= 90 + 90 + 3 * 90
    with serving() as fresh:
        assert fresh.complete(long + "w2", max_tokens=6, temperature=0).json()["choices"] == other["choices"]


def test_a_body_that_is_no_request_never_breaks_the_server(served: Served) -> None:
    dice, good = random.Random(1), {"model": NAME, "prompt": "w1", "max_tokens": 2, "sprinter": {"contract": "exact"}}
    strange: list[Any] = [
        None,
        [],
        {},
        "",
        -1,
        10**30,
        1.5,
        True,
        "w1",
        [[1]],
        {"a": {"b": 1}},
        "\ud800",
        [None],
        [1.5],
    ]
    codes = set()
    with httpx.Client() as connection:
        for _ in range(250):
            ask: dict[str, Any] = dict(good)
            for _ in range(dice.randrange(1, 3)):
                ask[dice.choice([*good, "n", "stop", "logprobs", "messages", "stream", "seed", "top_p"])] = dice.choice(
                    strange
                )
            path = dice.choice(["/v1/completions", "/v1/chat/completions"])
            answer = connection.post(f"{served.url}{path}", content=json.dumps(ask), headers=JSON, timeout=30)
            codes.add(answer.status_code)
            assert answer.status_code in (200, 400, 404), (ask, answer.text)
            assert answer.status_code == 200 or error_of(answer)
        for raw in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"model": NaN}', b"null"):
            assert connection.post(f"{served.url}/v1/completions", content=raw, headers=JSON).status_code == 400
    assert {200, 400} <= codes
    assert served.complete("w1", max_tokens=1).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(served: Served) -> None:
    page = httpx.get(served.url)
    assert page.headers["content-security-policy"] == "default-src 'self'"
    for name in ("page.css", "page.js"):
        part = httpx.get(f"{served.url}/page/{name}")
        assert part.status_code == 200
        assert "http://" not in part.text and "https://" not in part.text
        assert f"/page/{name}" in page.text
    assert httpx.get(f"{served.url}/page/../app.py").status_code == 404


def test_a_bug_in_one_text_ends_that_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as served:
        begun, failing = served.sprinter.start, {"on": True}

        def broken(*arguments: Any, **named: Any) -> Any:
            if failing["on"]:
                raise RuntimeError("a bug")
            return begun(*arguments, **named)

        monkeypatch.setattr(served.sprinter, "start", broken)
        answer = served.complete("w1", max_tokens=2)
        assert (answer.status_code, "its log says how" in error_of(answer)) == (500, True)
        failing["on"] = False
        forward = served.sprinter.pair.target.forward

        def refuses(parts: Any) -> Any:
            monkeypatch.setattr(served.sprinter.pair.target, "forward", forward)
            raise RuntimeError("another bug")

        monkeypatch.setattr(served.sprinter.pair.target, "forward", refuses)
        assert served.complete("w1", max_tokens=2).status_code == 500
        assert served.complete("w1", max_tokens=2).status_code == 200
