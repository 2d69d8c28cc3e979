"""`sprinter frontier` says which rows its figures are of and what the costs are, timing the pair unless told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_models import save_model

from sprinter.bench import timing
from sprinter.build import Pair
from sprinter.cli.main import main
from sprinter.core.sampling import Sampling
from sprinter.learn.collect import CollectSettings, collect
from sprinter.learn.fit import PRESETS, fit
from sprinter.learn.prompts import read_prompts
from sprinter.learn.rows import load_rows
from sprinter.learn.save import save_verifier


@pytest.fixture(scope="module")
def made(tiny_pair: Pair, prompts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a verifier and rows of two policies."""
    place = tmp_path_factory.mktemp("frontier")
    prompts = read_prompts([prompts_file])
    for policy in ("draft", "exact"):
        settings = CollectSettings(policy, 8, (Sampling(),), batch=16)
        collect(tiny_pair, prompts[:30], place / policy, settings)
    rows = load_rows([place / "exact"])
    save_verifier(place / "verifier", fit(rows, PRESETS["default"]), rows, {})
    return place


def frontier(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sprinter", "frontier", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def pair_of(folders: tuple[Path, Path]) -> list[object]:
    return ["--target", folders[0], "--draft", folders[1], "--backend", "hf"]


def test_the_pair_is_timed_and_the_rows_are_named(monkeypatch, capsys, made, tiny_folders, tmp_path):
    given = ["--data", made / "exact", "--verifier", made / "verifier", *pair_of(tiny_folders)]
    code, out, err = frontier(monkeypatch, capsys, *given, "--out", tmp_path / "all.json")
    assert code == 0, err
    head = out.splitlines()[:2]
    assert head[0] == "rows:  exact (30 prompts, contexts of policy exact)"
    assert head[1].startswith("costs: timed here, a draft step ")
    assert "|" not in out and "wanted" not in out
    assert json.loads((tmp_path / "all.json").read_text())["rows"] == head[0].removeprefix("rows:  ")
    assert "decoding meets others" not in err


def test_a_dearer_draft_is_predicted_to_be_slower_on_the_same_rows(monkeypatch, capsys, made):
    speeds = []
    for c in (0.1, 0.5):
        given = ["--data", made / "draft", "--verifier", made / "verifier", "--json", "--costs", f"c={c}"]
        code, out, err = frontier(monkeypatch, capsys, *given)
        assert code == 0, err
        assert "draft: the draft wrote these contexts alone, and decoding meets others" in err
        report = json.loads(out)
        assert report["costs"] == f"as given, c={c}"
        speeds.append([row["speedup"] for row in report["results"][0]["budgets"]])
    assert all(dear < cheap for cheap, dear in zip(*speeds, strict=True))


def test_mistakes_are_found_before_anything_is_timed(monkeypatch, capsys, made, tiny_folders, tmp_path):
    monkeypatch.setattr(timing, "time_pair", None)
    given = ["--data", made / "exact", "--verifier", made / "verifier"]
    other = save_model(tmp_path / "other", "llama", 3)
    for more, why in (
        ([*pair_of((tiny_folders[0], other))], "the rows are of another draft than"),
        ([*pair_of(tiny_folders), "--plot", "curves.pdf"], ".png or .svg"),
        (["--costs", "0.1"], "unknown key '0.1' in the costs"),
    ):
        code, out, err = frontier(monkeypatch, capsys, *given, *more)
        assert (code, out) == (2, "")
        assert why in err and len(err.strip().splitlines()) == 1
