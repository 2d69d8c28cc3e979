"""The program `sprinter serve`: what it says at the start, and that it ends without dropping what runs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest


def start(pair: tuple[Path, Path], *more: str) -> subprocess.Popen[str]:
    draft, target = pair
    models = ("--draft", str(draft), "--target", str(target), "--verifier", "none")
    return subprocess.Popen(
        [sys.executable, "-m", "sprinter", "serve", "--port", "0", *models, *more], stderr=subprocess.PIPE, text=True
    )


def test_sigterm_lets_what_runs_finish(tiny_pair: tuple[Path, Path]) -> None:
    process = start(tiny_pair, "--name", "tiny")
    assert process.stderr is not None
    try:
        port = next(
            int(found[1]) for line in process.stderr if (found := re.search(r"at http://127.0.0.1:(\d+)", line))
        )
        threading.Thread(target=process.stderr.read, daemon=True).start()
        ask = {"model": "tiny", "prompt": "the cat", "max_tokens": 60, "stream": True, "temperature": 0}
        with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/completions", json=ask, timeout=30) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            process.send_signal(signal.SIGTERM)
            events = [first, *(line for line in lines if line)]
        assert events[-1] == "data: [DONE]"
        reasons = [c["finish_reason"] for e in events[:-1] for c in json.loads(e.removeprefix("data: "))["choices"]]
        assert reasons[-1] in ("length", "stop")
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--contract", "loose"), "default contract is 'loose'"),
        (("--floor", "exact", "--contract", "best_effort"), "weaker than the floor"),
        (("--api-key-env", "NO_SUCH_VARIABLE"), "holds no key"),
        (("--host", "192.0.2.1"), "cannot listen at 192.0.2.1"),
    ],
)
def test_a_server_that_cannot_begin_is_one_line(
    tiny_pair: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    words: str,
) -> None:
    from sprinter.cli.main import main

    draft, target = tiny_pair
    models = ("--draft", str(draft), "--target", str(target), "--verifier", "none")
    monkeypatch.setattr(sys, "argv", ["sprinter", "serve", *models, *more])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert (ended.value.code, words in err, err.count("\n")) == (2, True, 1), err
