"""The report is one page that shows hostile text as text, and two comparisons can be laid side by side."""

from __future__ import annotations

import csv
import io
import itertools
import re
from html.parser import HTMLParser
from typing import get_args

import numpy as np
import pytest

from benchmarks.benchmark_tables import inserted, lines_of
from sprinter import rouge
from sprinter.bench import bootstrap, journal
from sprinter.bench.bench import BenchConfig, run_bench
from sprinter.bench.charts import Axis, escape, short_name, spread
from sprinter.bench.headline import headline
from sprinter.bench.judge import Opinion
from sprinter.bench.methods import ORIGIN_LETTERS
from sprinter.bench.report import page, write_outputs
from sprinter.bench.summary import compare, summarise
from sprinter.bench.tables import compare_table, paper_claim, records_csv, terminal_table
from sprinter.cli.show import COLOURS
from sprinter.core.records import MEANINGS, PAINT, Origin
from tests.support.bench_toys import toy_bench, write_texts

EVIL = '</dd><script>alert("x")</script><img src=http://evil/ onerror=alert(1)>\u202e\x00\ud800'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bench")
    data = write_texts(place / "texts.jsonl")
    config = BenchConfig(str(data), "target,exact:2,confidence:0.4", prompts=5, max_new_tokens=16, warmup=1, samples=2)
    run_bench(config, toy_bench(), place / "out")
    return place / "out"


class Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_hostile_text_reaches_the_page_only_as_text(folder):
    results = journal.read(folder)
    for prompt in results.run["prompts"]:
        prompt["text"] = EVIL
    for record in results.records:
        record["text"] = EVIL
        if "pieces" in record:
            record["pieces"] = [EVIL] * len(record["ids"])
    results.run["methods"][2]["name"] = EVIL
    for record in results.records:
        if record["method"] == "confidence:0.4":
            record["method"] = EVIL
    text = page(summarise(results), results)
    found = Tags()
    found.feed(text)
    assert not found.tags & {"script", "img", "iframe", "link", "object"}
    assert not {name for name in found.attributes if name.startswith("on")}
    assert "\u202e" not in text and "\x00" not in text
    text.encode("utf-8")


def test_the_page_loads_nothing_and_says_everything(folder):
    summary, files = write_outputs(folder)
    text = (folder / "report.html").read_text()
    assert {"results.json", "runs.csv", "report.html"} <= set(files)
    assert not re.search(r'(src|href)="', text)
    assert "default-src 'none'" in text
    for name in summary["methods"]:
        assert name in text
    for title in ("Speed and loss", "The frontier", "Latency", "Texts", "How it was made", "verifier&#x27;s word"):
        assert title in text


def test_the_summary_counts_what_was_recorded(folder):
    results = journal.read(folder)
    target = summarise(results)["methods"]["target"]
    records = list(results.of("target").values())
    assert target["tokens"] == sum(len(r["ids"]) for r in records) == 80
    assert target["tokens_per_s"] == pytest.approx(80 / sum(r["seconds"] for r in records))
    assert target["target_calls_per_token"] == 1
    assert target["against"]["target"]["speedup"]["value"] == pytest.approx(1)
    assert target["verdicts"]["log_likelihood"] == {
        "verdict": "undecided",  # five prompts decide nothing
        "margin": 0.1,
        "difference": {"value": 0, "low": 0, "high": 0},
    }
    assert target["rouge_target"] == {"rouge1": 1, "rouge2": 1, "rougeL": 1}


def test_atypical_tokens_are_shown_beyond_the_targets_own_with_their_interval(folder):
    results = journal.read(folder)
    for record in results.of("confidence:0.4").values():
        record["atypical"], record["own_atypical"] = 0.31, 0.24
    method = summarise(results)["methods"]["confidence:0.4"]
    assert method["excess_atypical"] == pytest.approx(0.07)
    assert method["excess_interval"] == pytest.approx([0.07, 0.07])
    text = page(summarise(results), results)
    assert "7.0%<small>7.0% to 7.0%</small>" in text and "beyond<br>the target's own" in text
    header, *rows = (line.split() for line in terminal_table(summarise(results)).splitlines())
    assert "7.00%" in next(row for row in rows if row[0] == "confidence:0.4")
    assert header[header.index("beyond") + 1] == "own"


def test_without_rouge_score_the_rest_is_reported_and_the_package_named(folder, monkeypatch):
    monkeypatch.setattr(rouge, "find_spec", lambda name: None)
    results = journal.read(folder)
    summary = summarise(results)
    assert summary["methods"]["target"]["rouge_target"] == {}
    assert "rouge_reference" not in summary["methods"]["target"]["verdicts"]
    assert "pip install" in page(summary, results)
    assert len({len(line) for line in terminal_table(summary).splitlines()}) == 1


def test_the_document_gets_one_row_per_method_between_its_marks(folder):
    summary = summarise(journal.read(folder))
    text = inserted("before <!-- measured -->\nold\n<!-- end --> after", lines_of("Toys", summary))
    assert text.startswith("before ") and text.endswith(" after") and "old" not in text
    rows = [line for line in text.splitlines() if line.startswith(("| target ", "| exact:2 ", "| confidence:0.4 "))]
    assert len(rows) == 6  # speed, loss
    assert inserted(text, lines_of("Toys", summary)) == text
    for header in ("atypical, beyond the target's own", "the paper's loss"):
        assert header in text


def test_what_the_paper_states_stands_beside_what_answers_to_it():
    assert paper_claim("sprinter:0.7", "speedup") == "1.64x to 1.7x"
    assert paper_claim("paper", "flops") == "8.3x"
    assert paper_claim("exact:2", "speedup") == ""


def test_the_target_alone_has_the_same_flops_by_the_paper_but_for_the_prompt(folder):
    methods = summarise(journal.read(folder))["methods"]
    assert methods["target"]["paper_flops_per_token"] <= methods["target"]["flops_per_token"]
    exact, lossy = methods["exact:2"], methods["confidence:0.4"]
    assert lossy["paper_flops_per_token"] < exact["paper_flops_per_token"]


def test_a_failure_is_shown(folder, tmp_path):
    results = journal.read(folder)
    results.records[0] = {"method": "target", "prompt": results.records[0]["prompt"], "error": "Error: <b>broke</b>"}
    summary = summarise(results)
    assert summary["methods"]["target"]["failures"] == 1
    assert "&lt;b&gt;broke" in page(summary, results)


def test_the_judge_is_tallied(folder):
    opinions = [
        Opinion("p", "exact:2", "method first", 7, 5, ""),
        Opinion("q", "exact:2", "method first", None, None, ""),
    ]
    judged = summarise(journal.read(folder), opinions)["methods"]["exact:2"]["judge"]
    assert (judged["win"], judged["lose"], judged["unanswered"]) == (1, 0, 1)


def test_a_comparison_with_itself_finds_no_change(folder):
    results = journal.read(folder)
    found = compare(results, results)
    assert found["differs"] == []
    row = found["methods"]["exact:2"]
    assert row["speed_ratio"]["value"] == row["speed_ratio"]["low"] == row["speed_ratio"]["high"] == pytest.approx(1)
    assert row["same_output"] == 1
    assert "exact:2" in compare_table(found)


def test_every_run_is_a_row_of_the_csv_and_no_cell_is_a_formula(folder):
    results = journal.read(folder)
    results.records[0] |= {"text": "=HYPERLINK(1)", "method": "@SUM(1)", "prompt": "+1", "error": "\uff1dnow()"}
    results.records[1]["text"] = "one line\rand another\x00"
    text = records_csv(results)
    assert len(text.replace("\r", "\n").splitlines()) == len(results.records) + 2  # the header and one broken line
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(results.records)
    assert [rows[0][name][:2] for name in ("text", "method", "prompt", "error")] == ["'=", "'@", "'+", "'\uff1d"]
    assert rows[1]["text"] == "one line\rand another\ufffd"
    assert float(rows[1]["log_likelihood"]) < 0  # a number stays one


@pytest.mark.parametrize(
    ("prompts", "speed", "loss", "told"),
    [
        (40, 2.0, 0.0, "Within 2% atypical tokens beyond the target's own rate, exact:2 is fastest: 2.00x"),
        (40, 0.69, 0.0, "No method is shown to be faster than the target alone. The best, exact:2, has 0.69x"),
        (10, 2.0, 0.0, "10 prompts decide nothing (30 are needed). So far exact:2 has 2.00x"),
        (40, 2.0, 0.5, "No method is shown to stay within 2%"),
    ],
)
def test_the_headline_says_what_the_prompts_show(prompts, speed, loss, told):
    def run(seconds, atypical):
        return {"seconds": seconds, "ids": [0] * 10, "atypical": atypical, "own_atypical": 0.0, "delta": None}

    own = {str(n): run((1 + n % 3) / speed * (1 + 0.01 * (n % 2)), loss * (n % 2)) for n in range(prompts)}
    runs = {"target": {str(n): run(1.0 + n % 3, 0.0) for n in range(prompts)}, "exact:2": own}
    assert headline(runs, 0)["text"].replace("1.99x", "2.00x").startswith(told)


def test_of_many_equal_methods_none_is_told_to_be_faster_for_its_luck(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    rng = np.random.default_rng(0)

    def runs(noise):
        one = {"ids": [0] * 10, "atypical": 0.0, "own_atypical": 0.0, "delta": 0.0}
        return {str(n): {**one, "seconds": float(s)} for n, s in enumerate(rng.lognormal(0, noise, 30))}

    def decided(count):
        return headline({"target": runs(0.3), **{f"m{n}": runs(0.3) for n in range(count)}}, 0)["decided"]

    assert sum(decided(12) for _ in range(60)) <= 6  # 5% of 60 and three standard errors; unadjusted it is 11


def test_a_colour_means_the_same_in_the_report_and_on_the_terminal(folder):
    text = page(summarise(journal.read(folder)), journal.read(folder))
    assert set(ORIGIN_LETTERS) == set(PAINT) == set(MEANINGS) == set(get_args(Origin)) == set(COLOURS)
    for origin, letter in ORIGIN_LETTERS.items():
        if origin != "target":
            assert f".tok.{letter}{{background:{PAINT[origin]}}}" in text
    hues = {"\033[32m": "green", "\033[36m": "blue", "\033[31m": "red", "\033[33m": "yellow"}
    for origin, code in COLOURS.items():
        if code in hues:
            red, green, blue = (int(PAINT[origin][i : i + 2], 16) for i in (1, 3, 5))
            seen = {"green": green > max(red, blue), "blue": blue > max(red, green), "red": red > max(green, blue)}
            assert seen.get(hues[code], red > blue and green > blue)  # yellow


def test_the_terminal_table_is_aligned(folder):
    lines = terminal_table(summarise(journal.read(folder))).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1


def test_a_long_name_keeps_within_the_gutter_and_loses_no_setting():
    name = "lookahead:0.5816+scorer=typical+max_draft=20+lookahead=0.15"
    assert short_name(name) == "lookahead:0.5816 typical cap 20 h 0.15"
    assert len(short_name(name)) <= 40
    assert short_name("sprinter:tv=0.05") == "sprinter:tv=0.05"


def test_labels_never_overlap():
    rng = np.random.default_rng(0)
    heights = sorted(rng.uniform(0, 100, 12).tolist())
    placed = spread(heights, 0, 300, 17)
    assert all(b - a >= 17 - 1e-9 for a, b in itertools.pairwise(placed))


def test_axes_have_round_ticks():
    assert Axis(0, 3.1, 0, 1).ticks() == [0, 1, 2, 3]
    assert escape("a\u202eb<") == "a\ufffdb&lt;"
