"""sprinter chat: what a person types, against a server and with answers that are stopped."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sprinter.cli.chat import Piece, Talk, _converse, obey
from sprinter.cli.main import main
from sprinter.errors import ConfigError
from tests.serve.conftest import Served


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sprinter", "chat", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_chat_with_a_server_keeps_its_history_and_its_contract(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "talk.json"
    typed(monkeypatch, "/exact", "w1", "/seed 3", "w2", "/certified 0.02", "w3", f"/save {file}", "/quit", "w4")
    assert run(monkeypatch, "--server", served.url, "-n", "4", "--system", "w0") == 0
    shown = capsys.readouterr()
    said = json.loads(file.read_text())["messages"]
    assert [m["role"] for m in said] == ["system", "user", "assistant", "user", "assistant"]
    assert [m["content"] for m in said[::2]] == ["w0", said[2]["content"], said[4]["content"]]
    assert said[2]["content"].strip() in shown.out and said[4]["content"].strip() in shown.out
    assert shown.err.count("exact by exact") == 2
    assert "certified" in shown.err
    again = served.post("/v1/chat/completions", messages=said[:4], max_tokens=4, temperature=0).json()
    assert again["choices"][0]["message"]["content"] == said[4]["content"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--server", "http://127.0.0.1:1"), "no server at"),
        (("--server", "ftp://x"), "must begin with http"),
        (("--server", "http://127.0.0.1:1", "--target", "x"), "--target does nothing with --server"),
        (("--api-key-env", "X"), "does nothing without --server"),
    ],
)
def test_a_wrong_way_to_begin_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert (words in err, err.count("\n")) == (True, 1), err


def test_ctrl_c_stops_an_answer_and_keeps_the_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = 0

    class Interrupted:
        def answer(self, talk: Talk) -> Iterator[Piece]:
            nonlocal closed
            try:
                yield "half an ", "tested"
                if len(talk.said) == 1:
                    raise KeyboardInterrupt
                yield "answer\x1b[2J", "vouched"
            finally:
                closed += 1

        def account(self) -> str:
            return "done"

    talk = Talk()
    typed(monkeypatch, "one", "two")
    _converse(talk, Interrupted(), color=True)
    assert [m["content"] for m in talk.said] == ["one", "half an ", "two", "half an answer\x1b[2J"]
    assert closed == 2
    shown = capsys.readouterr()
    assert "(stopped)" in shown.err
    assert "\x1b[2J" not in shown.out


def test_what_begins_with_a_slash_changes_the_chat(tmp_path: Path) -> None:
    talk = Talk()
    assert "/certified LEVEL" in obey(talk, "/help")
    assert "at most 0.05" in obey(talk, "/certified 0.05")
    assert talk.contract == {"contract": "certified", "max_atypical": 0.05}
    talk.said.append({"role": "user", "content": "x"})
    obey(talk, "/system Be brief.")
    assert talk.messages == [{"role": "system", "content": "Be brief."}]
    obey(talk, "/seed 4")
    assert talk.seed == 4
    obey(talk, "/seed")
    assert talk.seed is None
    for line, words in (("/seed x", "needs a number"), ("/save", "needs a file"), ("/dance", "there is no /dance")):
        with pytest.raises(ConfigError, match=words):
            obey(talk, line)
    with pytest.raises(ConfigError, match="cannot write"):
        obey(talk, f"/save {tmp_path / 'none' / 'x.json'}")
