"""The judge sees both texts in random order, is asked a bounded number of times, and never stops a comparison."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from sprinter.bench.judge import Endpoint, Opinion, judge, read_opinions, tally, write_opinion
from sprinter.errors import ConfigError, DataError


@pytest.fixture
def server():
    """A chat-completions endpoint on this machine; `replies` are (status, content), the last one for good."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null")
            made.asked.append((self.path, self.headers.get("Authorization"), body))
            status, content = made.replies.pop(0) if len(made.replies) > 1 else made.replies[0]
            if callable(content):
                content = content(body["messages"][0]["content"])
            answer = content
            if not isinstance(content, bytes):
                answer = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{self.path}/elsewhere")
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST  # noqa: N815 - what a followed redirect would ask

        def log_message(self, *_args):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.replies = [], [(200, '{"A": 5, "B": 5}')]
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def endpoint(server, **options):
    return Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1", "judge", pause_s=0.0, **options)


def ask(server, rng=None, **options):
    return judge(
        endpoint(server, **options), ("p", "the prompt"), ("mine", "GOOD"), "BAD", rng or np.random.default_rng(0)
    )


def test_scores_go_to_the_right_text_in_either_order(server):
    def rate(question):
        first_is_good = question.index("GOOD") < question.index("BAD")
        return 'I think {"A": 9, "B": 3}' if first_is_good else '{"A": 3, "B": 9}'

    server.replies = [(200, rate)]
    rng = np.random.default_rng(0)
    opinions = [ask(server, rng) for _ in range(12)]
    assert {o.order for o in opinions} == {"method first", "baseline first"}
    assert {(o.method_score, o.baseline_score, o.outcome) for o in opinions} == {(9, 3, "win")}


def test_a_busy_judge_is_asked_again_but_not_for_ever(server):
    server.replies = [(429, ""), (200, "no idea"), (200, '{"A": 4, "B": 4}')]
    assert ask(server).outcome == "tie"
    assert len(server.asked) == 3
    server.replies = [(503, "")]
    assert ask(server, attempts=2).outcome is None
    assert len(server.asked) == 5


def test_a_refusal_is_not_retried_and_is_kept_in_the_transcript(server, tmp_path):
    server.replies = [(401, "")]
    opinion = ask(server)
    assert len(server.asked) == 1
    assert "401" in opinion.answer
    write_opinion(tmp_path / "judge.jsonl", opinion)
    with (tmp_path / "judge.jsonl").open("a") as stream:
        stream.write('{"prompt"')
    assert read_opinions(tmp_path / "judge.jsonl") == [opinion]
    assert tally([opinion])["unanswered"] == 1


def test_scores_off_the_scale_are_no_answer(server):
    server.replies = [(200, '{"A": 40, "B": 2}')]
    assert ask(server, attempts=1).outcome is None


def test_the_key_is_sent_and_not_shown(server):
    assert ask(server, key="secret").outcome == "tie"
    assert server.asked[-1][1] == "Bearer secret"
    assert "secret" not in repr(endpoint(server, key="secret"))


def test_only_web_addresses_are_asked():
    with pytest.raises(ConfigError, match="http"):
        Endpoint("file:///etc/passwd", "judge")


def test_nobody_there_is_an_opinion_without_scores():
    gone = Endpoint("http://127.0.0.1:9/v1", "judge", attempts=1)
    opinion = judge(gone, ("p", ""), ("mine", "a"), "b", np.random.default_rng(0))
    assert opinion.outcome is None
    assert "cannot be reached" in opinion.answer


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_gets_neither_the_key_nor_the_texts(server, status):
    server.replies = [(status, ""), (200, '{"A": 5, "B": 5}')]
    opinion = ask(server, key="secret")
    assert len(server.asked) == 1
    assert opinion.outcome is None
    assert str(status) in opinion.answer and "not followed" in opinion.answer


@pytest.mark.parametrize(
    "reply",
    [
        b"[" * 200_000,
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": [1]}}]}',
        b'{"choices": {"0": 1}}',
        b"[1]",
        b"\xff\xfe",
        b'{"choices": "' + b"x" * (2 << 20),
    ],
)
def test_a_reply_of_another_shape_is_an_opinion_without_scores(server, reply):
    server.replies = [(200, reply)]
    opinion = ask(server, attempts=1)
    assert opinion.outcome is None
    assert opinion.answer.startswith("error: the judge's reply is not ")
    assert len(opinion.answer) < 600 and "\n" not in opinion.answer


@pytest.mark.parametrize(
    "line", ["[1]", '{"prompt": 1}', '{"prompt": "p", "other": 2}', "[" * 100_000, "\x00", '"' + "x" * 100]
)
def test_a_transcript_line_of_another_shape_is_named(tmp_path, line):
    file = tmp_path / "judge.jsonl"
    write_opinion(file, Opinion("p", "m", "method first", 1.0, 2.0, "a"))
    with file.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=r"judge\.jsonl, line 2 is not .*: delete the line"):
        read_opinions(file)
