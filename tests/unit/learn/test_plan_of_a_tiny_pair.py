"""`sprinter plan` on real model folders: a probe, its saved rows, and a collection lead to a plan."""

import json
import sys
from pathlib import Path

import pytest

from sprinter.bench.timing import WIDTHS
from sprinter.build import Pair
from sprinter.cli.main import main
from sprinter.core.sampling import Sampling
from sprinter.learn.collect import CollectSettings, collect
from sprinter.learn.prompts import read_prompts


def plan(monkeypatch, capsys, *arguments):
    """The JSON answer of `sprinter plan`."""
    monkeypatch.setattr(sys, "argv", ["sprinter", "plan", "--json", "--max-draft", "4", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return json.loads(captured.out)


def test_a_pair_is_timed_and_probed_and_its_rows_can_be_planned_again(
    monkeypatch, capsys, tiny_folders: tuple[Path, Path], prompts_file: Path, tmp_path: Path
):
    target, draft = tiny_folders
    words = [json.loads(line)["prompt"] for line in prompts_file.read_text().splitlines()[:4]]
    (tmp_path / "prompts.txt").write_text("\n".join(words))
    rows = tmp_path / "rows.jsonl"
    pair = ["--target", target, "--draft", draft, "--scorer", "confidence", "--backend", "hf", "-t", "1"]
    probed = plan(
        monkeypatch, capsys, *pair, "--prompts", tmp_path / "prompts.txt", "--probe-tokens", "8", "--save-rows", rows
    )
    assert 0 < probed["alpha"] < 1
    assert probed["draft_s"] > 0 and [int(width) for width in probed["target_s"]] == list(WIDTHS)
    assert len(rows.read_text().splitlines()) <= 4 * 8
    again = plan(monkeypatch, capsys, "--data", rows, "--costs", "c=0.1")
    assert again["alpha"] == pytest.approx(probed["alpha"])


def test_a_collection_is_planned_by_the_transform_asked_for(
    monkeypatch, capsys, tiny_pair: Pair, prompts_file: Path, tmp_path: Path
):
    transforms = (Sampling(), Sampling(0.7, top_p=0.9))
    prompts = read_prompts([prompts_file])[:6]
    collect(tiny_pair, prompts, tmp_path, CollectSettings(tokens=6, transforms=transforms, batch=8))
    given = ["--data", tmp_path, "--costs", "c=0.1", "--scorer", "confidence"]
    plain = plan(monkeypatch, capsys, *given, "-t", "1")
    cool = plan(monkeypatch, capsys, *given, "-t", "0.7", "--top-p", "0.9")
    assert 0 < plain["alpha"] < 1 and 0 < cool["alpha"] < 1
    assert plain["alpha"] != cool["alpha"]
