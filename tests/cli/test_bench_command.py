"""`sprinter bench` puts its table on stdout and everything else beside the records; mistakes end in one line."""

from __future__ import annotations

import json
import sys

import pytest

from sprinter import build
from sprinter.certify.asked import Asked, setting_of
from sprinter.certify.certificate import Certificate, Claim, GridRow
from sprinter.cli.main import main
from sprinter.config import DecodingConfig
from tests.support.bench_toys import toy_bench, write_texts


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr(build, "Pair", lambda config: toy_bench().pair)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["sprinter", "bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def common(folder, out):
    data = write_texts(folder / "texts.jsonl")
    methods = "target,confidence:0.4"
    return (
        "--data",
        data,
        "--methods",
        methods,
        "--prompts",
        3,
        "-n",
        8,
        "--warmup",
        1,
        "-t",
        1,
        "--out",
        folder / out,
    )


def test_a_comparison_and_its_twin_can_be_laid_side_by_side(toys, monkeypatch, capsys, tmp_path):
    code, out, err = run(monkeypatch, capsys, *common(tmp_path, "a"))
    assert code == 0
    assert "confidence:0.4" in out
    assert "report.html" in err
    assert {"run.json", "records.jsonl", "results.json", "runs.csv", "report.html"} <= {
        file.name for file in (tmp_path / "a").iterdir()
    }
    code, out, _ = run(monkeypatch, capsys, *common(tmp_path, "b"), "--json")
    assert json.loads(out)["runs"] == 6
    code, out, _ = run(monkeypatch, capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "100%" in out


def test_a_finished_folder_is_not_overwritten_and_resume_only_writes_the_report_again(
    toys, monkeypatch, capsys, tmp_path
):
    assert run(monkeypatch, capsys, *common(tmp_path, "a"))[0] == 0
    code, _, err = run(monkeypatch, capsys, *common(tmp_path, "a"))
    assert code == 2
    assert "--resume" in err
    (tmp_path / "a" / "report.html").unlink()
    assert run(monkeypatch, capsys, *common(tmp_path, "a"), "--resume")[0] == 0
    assert (tmp_path / "a" / "report.html").exists()


def certify(folder, num_tokens):
    """A certificate for `confidence` on the toys, about texts of `num_tokens` tokens."""
    bench = toy_bench()
    setting = setting_of(bench.pair, DecodingConfig(scorer="confidence"), Asked(bench.sampling))
    row = GridRow(0.4, 300, 0.5, {"tv": 0.2}, {"tv": 0.25})
    claims = [Claim("tv", 0.3, 0.4, [0.01])]
    file = folder / "certificate.json"
    Certificate(setting, 0.95, "betting", 300, num_tokens, "d" * 64, [row], claims, {}).save(file)
    return file


def test_the_help_names_the_methods_it_speaks_of(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--help")
    assert code == 0
    for word in ("llma:copy_match=3", "hf-ensemble:W", "--reference", "sprinter bench compare"):
        assert word in out


@pytest.mark.parametrize(("num_tokens", "covered"), [(8, True), (7, False)])
def test_a_certified_level_says_where_the_texts_are_longer_than_its_certificate_s(
    toys, monkeypatch, capsys, tmp_path, num_tokens, covered
):
    method = "confidence:tv=0.3"
    own = ("--methods", method, "--certificate", certify(tmp_path, num_tokens), "--json")
    code, out, err = run(monkeypatch, capsys, *common(tmp_path, "a"), *own)
    assert code == 0, err
    caveat = json.loads(out)["methods"][method]["facts"]["caveat"]
    lines = [line for line in err.splitlines() if "promises nothing" in line]
    if covered:
        assert (caveat, lines) == (None, [])
    else:
        assert lines == [f"{method}: {caveat}"]
        assert "at most 7 new tokens; up to 8 were asked for" in caveat
        assert caveat in (tmp_path / "a" / "report.html").read_text()


def test_ctrl_c_keeps_what_is_done(toys, monkeypatch, capsys, tmp_path):
    from sprinter.cli import bench

    class Stop(bench._Progress):
        def step(self, step):
            if step.done == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(bench, "_Progress", Stop)
    code, out, err = run(monkeypatch, capsys, *common(tmp_path, "a"))
    assert code == 130
    assert "--resume" in err
    assert "target" in out
    assert len((tmp_path / "a" / "records.jsonl").read_text().splitlines()) == 4
    assert "Unfinished: 4 of 6 runs" in (tmp_path / "a" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "fastest"), "unknown method 'fastest'"),
        (("--data", "nowhere"), "no data at nowhere"),
        (("--judge", "http://localhost/v1"), "--judge-model"),
        (("--prompts", "0"), "1 prompt"),
        (("compare", "a", "b"), "no comparison in a"),
    ],
)
def test_mistakes_end_in_one_line(toys, monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
