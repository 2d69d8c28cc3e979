"""`sprinter distill` hands its flags to the Python API."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sprinter.cli.main import main


@pytest.fixture
def distilled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs the command up to the work itself and gives the settings it would work with."""
    (tmp_path / "target").mkdir()
    seen: list[Any] = []
    score = SimpleNamespace(overlap=0.5, agreement=0.5, positions=1)

    def instead(_target: Path, _data: Any, out: Path, config: Any, *_more: Any) -> Any:
        seen.append(config)
        return SimpleNamespace(out=out, score=score, head_coverage=1.0, own_parameters=1)

    monkeypatch.setattr("sprinter.learn.distill.distill", instead)

    def run(*flags: str) -> tuple[int, Any]:
        places = ["--target", str(tmp_path / "target"), "--data", "x.jsonl", "--out", str(tmp_path / "draft")]
        monkeypatch.setattr(sys, "argv", ["sprinter", "distill", *places, *flags])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), seen[-1] if seen else None

    return run


def test_the_defaults_are_the_api_s(distilled) -> None:  # type: ignore[no-untyped-def]
    _, config = distilled()
    assert (config.judge_prompt, config.train.precision) == (True, "auto")


def test_precision_and_judge_prompt_reach_the_training(distilled) -> None:  # type: ignore[no-untyped-def]
    _, config = distilled("--no-judge-prompt", "--precision", "float32")
    assert (config.judge_prompt, config.train.precision) == (False, "float32")
    assert distilled("--judge-prompt")[1].judge_prompt


def test_an_unknown_precision_is_one_line(distilled, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    code, config = distilled("--precision", "int8")
    assert (code, config) == (2, None)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "precision must be one of auto, float32, bfloat16" in err
