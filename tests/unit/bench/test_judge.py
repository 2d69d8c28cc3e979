"""The judge sees both texts in random order, is asked a bounded number of times, and never stops a comparison."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from sprinter.bench.judge import Endpoint, judge, read_opinions, tally, write_opinion
from sprinter.errors import ConfigError


@pytest.fixture
def server():
    """A chat-completions endpoint on this machine; `replies` are (status, content), the last one for good."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.asked.append((self.path, self.headers.get("Authorization"), body))
            status, content = made.replies.pop(0) if len(made.replies) > 1 else made.replies[0]
            if callable(content):
                content = content(body["messages"][0]["content"])
            answer = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

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
