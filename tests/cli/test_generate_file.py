"""sprinter generate --file: many prompts, one file of texts in their order, whatever happens on the way."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sprinter.cli.main import main
from sprinter.journal import Journal

Run = Callable[..., tuple[int, str]]
PROMPTS = ["the land", "in", "a sea of", "the the the", "of land in"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tiny_pair: tuple[Path, Path]) -> Run:
    """Runs `sprinter generate` on the tiny pair: exit code and stderr."""

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", arguments(tiny_pair, *words))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capfd.readouterr().err

    return call


def arguments(pair: tuple[Path, Path], *words: object) -> list[str]:
    draft, target = pair
    fixed = ["sprinter", "generate", "--draft", str(draft), "--target", str(target), "--method", "exact", "-n", "8"]
    return fixed + [str(word) for word in words]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_texts_come_in_the_order_of_their_prompts(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n\n".join(PROMPTS) + "\n", encoding="utf-8-sig")
    code, said = run("--file", tmp_path / "prompts.txt", "--out", tmp_path / "texts.jsonl", "--batch", 2)
    made = rows(tmp_path / "texts.jsonl")
    assert code == 0, said
    assert [row["prompt"] for row in made] == PROMPTS
    assert [row["line"] for row in made] == [1, 3, 5, 7, 9]
    assert all(row["num_tokens"] == 8 and "tokens" not in row for row in made)
    assert "5 texts of 40 tokens" in said
    assert {file.name for file in tmp_path.iterdir()} == {"prompts.txt", "texts.jsonl"}


def test_company_changes_no_text(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    texts = []
    for batch in (1, 3):
        out = tmp_path / f"{batch}.jsonl"
        run("--file", tmp_path / "prompts.txt", "--out", out, "--batch", batch, "-t", 1, "--seed", 3, "--json")
        texts.append([[(t["id"], t["origin"]) for t in row["tokens"]] for row in rows(out)])
    assert texts[0] == texts[1]


def test_each_line_may_have_its_own_settings_and_fails_alone(run: Run, tmp_path: Path) -> None:
    lines = [
        {"prompt": "the land", "max_new_tokens": 3, "method": "target"},
        {"prompt": ""},
        "no object",
        {"prompt": "in", "colour": "blue"},
        {"prompt": "in", "messages": []},
        {"prompt": "in", "temperature": "hot"},
        {"prompt": "the " * 4000},
        {"messages": [{"role": "user", "content": "the"}]},
        {"prompt": "in"},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{half")
    code, said = run("--file", file, "--out", tmp_path / "out.jsonl")
    made = rows(tmp_path / "out.jsonl")
    assert code == 2
    assert [row["index"] for row in made] == list(range(10))
    assert ["error" in row for row in made] == [False, *[True] * 6, False, False, True]
    assert (made[0]["num_tokens"], made[0]["method"]) == (3, "target")
    for place, word in ((1, "empty"), (3, "colour"), (4, "either"), (5, "temperature"), (6, "tokens"), (9, "JSON")):
        assert word in made[place]["error"]
    assert "3 texts" in said
    assert f"{file}, line 4: unknown setting 'colour'" in said
    assert "Traceback" not in said


def test_a_killed_run_goes_on_where_it_stopped(tiny_pair: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    file.write_text("\n".join(PROMPTS * 60))
    words = ("--file", file, "--out", out, "--batch", 2, "-t", 1, "--seed", 7)
    program = [sys.executable, "-m", *arguments(tiny_pair, *words)]
    process = subprocess.Popen(program, stderr=subprocess.DEVNULL)
    beside, deadline = tmp_path / "out.jsonl.part", time.monotonic() + 60
    while time.monotonic() < deadline and not (beside.exists() and beside.read_bytes().count(b"\n") > 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert beside.exists(), "the run ended before it could be killed"
    left = beside.read_bytes()
    with beside.open("ab") as stream:
        stream.write(b'{"half')
    code, said = run(*words)
    assert code == 0, said
    assert "going on with" in said
    resumed = rows(out)
    assert len(resumed) == 300
    kept = [row["text"] for row in resumed][: left.count(b"\n") - 1]
    assert kept == [json.loads(line)["text"] for line in left.splitlines()[1 : 1 + len(kept)]]
    assert run("--file", file, "--out", tmp_path / "anew.jsonl", *words[4:])[0] == 0
    assert [row["text"] for row in resumed] == [row["text"] for row in rows(tmp_path / "anew.jsonl")]


def test_what_cannot_be_begun_is_one_line(run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    file.write_text("in\n")
    assert run("--file", file, "--out", out)[0] == 0
    for words, word in (
        (("--file", file, "--out", out), "is there already"),
        (("--file", file), "--out"),
        (("--file", tmp_path / "none.txt", "--out", tmp_path / "x"), "none.txt"),
        (("--file", file, "--out", tmp_path / "x", "the"), "neither a prompt"),
        (("--file", file, "--out", file / "x"), "cannot write"),
    ):
        code, said = run(*words)
        assert (code, said.count("\n"), word in said) == (2, 1, True), said


def test_a_part_of_another_run_is_not_gone_on_with(run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    file.write_text("in\n")
    Journal(tmp_path / "out.jsonl.part", {"prompts": "others"}, "list of texts").close()
    code, said = run("--file", file, "--out", out)
    assert code == 2
    assert "belongs to another list of texts" in said
    assert not out.exists()
