"""`sprinter plan` answers on stdout, needs no models for a hypothetical pair, and names what is wrong in one line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from sprinter.bench.labelled import read_labelled, write_labelled
from sprinter.cli.main import main
from sprinter.theory.simulator import Rows, independent_rows
from sprinter.theory.token_law import binormal_law

PAIR = "c=0.08,alpha=0.7,auc=0.85"


def run(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of `sprinter plan`."""
    monkeypatch.setattr(sys, "argv", ["sprinter", "plan", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def rows_file(tmp_path):
    rng = np.random.default_rng(6)
    file = tmp_path / "rows.jsonl"
    write_labelled([independent_rows(binormal_law(0.7, 0.85), 40, rng) for _ in range(8)], file)
    return file


def test_a_hypothetical_pair_gets_a_table_and_a_command(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "--hypothetical", PAIR)
    assert (code, err) == (0, "")
    assert "the target alone" in out
    assert "sprinter generate --method lookahead" in out
    assert "frontier" in out


def test_json_holds_the_same_answer(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--hypothetical", PAIR, "--json", "--max-tv", "0.1")
    report = json.loads(out)
    assert code == 0
    assert report["worth_it"] is True
    assert report["best"]["loss"] <= 0.1
    assert report["speedup_interval"]["low"] <= report["best"]["speedup"] <= report["speedup_interval"]["high"]
    assert {o["method"] for o in report["by_method"]} == {"target", "exact", "lossless", "sprinter", "lookahead"}


def test_max_draft_bounds_every_setting(monkeypatch, capsys):
    _, out, _ = run(monkeypatch, capsys, "--hypothetical", PAIR, "--json", "--max-draft", "3")
    assert max(o["cap"] for o in json.loads(out)["frontier"] if o["cap"]) <= 3


def test_a_hopeless_pair_is_told_not_to_bother(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--hypothetical", "c=0.9,alpha=0.3,auc=0.6")
    assert code == 0
    assert "Don't bother" in out
    assert "Run it" not in out


def test_labelled_rows_and_costs_need_no_models(monkeypatch, capsys, rows_file):
    code, out, _ = run(monkeypatch, capsys, "--data", rows_file, "--costs", "c=0.08", "--json")
    report = json.loads(out)
    assert code == 0
    assert "8 prompts" in report["speedup_interval"]["meaning"]
    assert report["loss_interval"] is not None


def test_the_frontier_is_plotted(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "frontier.svg"
    code, _, _ = run(monkeypatch, capsys, "--hypothetical", PAIR, "--plot", file)
    assert code == 0
    assert "<svg" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--hypothetical", "c=0.08,alfa=0.7,auc=0.85"], "alfa"),
        (["--hypothetical", "c=0.08,alpha=0.7"], "auc"),
        (["--hypothetical", PAIR, "--max-tv", "2"], "max_tv"),
        (["--hypothetical", PAIR, "--max-draft", "0"], "max_draft"),
        (["--hypothetical", PAIR, "--target", "x"], "--target"),
        (["--hypothetical", PAIR, "--top-p", "0.9"], "--top-p"),
        (["--hypothetical", PAIR, "--plot", "frontier.txt"], "frontier.txt"),
        (["--hypothetical", PAIR, "--plot", "no/such/folder/frontier.svg"], "no/such/folder"),
        (["--hypothetical", PAIR, "--seed", "3"], "--seed"),
        (["--probe-tokens", "0"], "probe_tokens"),
        (["--costs", "c=0.1"], "--data"),
        (["--data", "no-such-file.jsonl", "--costs", "c=0.1"], "no-such-file.jsonl"),
        (["--data", "x.jsonl", "--prompts", "y.txt"], "--prompts"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, arguments, named):
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert named in err
    assert err.startswith("sprinter: ") and err.count("\n") == 1


def test_a_folder_that_is_no_collection_is_refused(monkeypatch, capsys, tmp_path):
    code, _, err = run(monkeypatch, capsys, "--data", tmp_path, "--costs", "c=0.1", "--scorer", "confidence")
    assert code == 2 and "no collection" in err


def test_a_scorer_does_nothing_beside_labelled_rows(monkeypatch, capsys, rows_file):
    code, _, err = run(monkeypatch, capsys, "--data", rows_file, "--costs", "c=0.1", "--scorer", "confidence")
    assert code == 2 and "--scorer" in err


def test_wrong_costs_are_named(monkeypatch, capsys, rows_file):
    code, _, err = run(monkeypatch, capsys, "--data", rows_file, "--costs", "d=0.1")
    assert code == 2 and "'d'" in err
    code, _, err = run(monkeypatch, capsys, "--data", rows_file, "--costs", "growth=0.1")
    assert code == 2 and "lack c" in err


def test_a_hypothetical_plan_loads_no_torch():
    program = (
        "import sys; from sprinter.cli.main import app\n"
        f"app(['plan', '--hypothetical', '{PAIR}'], standalone_mode=False)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_labelled_rows_survive_a_round_trip(tmp_path):
    traces = [Rows(np.array([0.1, 1.0]), np.array([0.25, 0.5])), Rows(np.array([1 / 3]), np.array([0.0]))]
    write_labelled(traces, tmp_path / "rows.jsonl")
    again = read_labelled(tmp_path / "rows.jsonl")
    assert [r.accept.tolist() for r in again] == [r.accept.tolist() for r in traces]
    assert [r.score.tolist() for r in again] == [r.score.tolist() for r in traces]
