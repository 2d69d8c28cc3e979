"""A comparison interleaves its methods, counts every id once, and loses nothing when it is cut short."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sprinter.bench import journal, methods
from sprinter.bench.bench import BenchConfig, run_bench
from sprinter.bench.latency import Stopwatch
from sprinter.bench.methods import decoding_of, parse_specs
from sprinter.bench.report import family, page
from sprinter.bench.summary import summarise
from sprinter.errors import ConfigError, DataError
from sprinter.registry import find, names
from tests.support.bench_toys import toy_bench, write_texts

METHODS = "target,draft,exact:2,lossless:0.3+scorer=confidence,confidence:0.4,lookahead:0.4+scorer=confidence,bild:0.3"


@pytest.fixture
def config(tmp_path):
    data = write_texts(tmp_path / "texts.jsonl")
    return BenchConfig(str(data), METHODS, prompts=4, max_new_tokens=10, warmup=1, samples=1)


def run(config, folder, **options):
    run_bench(config, toy_bench(), folder, **options)
    return journal.read(folder)


def test_every_method_runs_once_on_every_prompt_and_prompts_are_not_mixed(config, tmp_path):
    results = run(config, tmp_path / "out")
    pairs = [(r["prompt"], r["method"]) for r in results.records]
    assert len(pairs) == len(set(pairs)) == 4 * 7
    places = [r["place"] for r in results.records]
    assert places == sorted(places)
    orders = {tuple(r["method"] for r in results.records if r["place"] == place) for place in range(4)}
    assert len(orders) > 1, "the order is drawn anew for each prompt"


def test_ids_are_counted_by_one_counter_and_add_up(config, tmp_path):
    results = run(config, tmp_path / "out")
    for record in results.records:
        assert len(record["ids"]) == len(record["times_ms"]) == len(record["origins"]) == 10
        assert record["times_ms"] == sorted(record["times_ms"])
        assert record["seconds"] * 1000 >= record["times_ms"][-1] - 1e-3
        assert len(record["text"].split()) >= 10


def test_the_stopwatch_drops_what_comes_after_the_end_or_the_limit():
    watch = Stopwatch(limit=4, eos_ids=frozenset({9}), device="cpu")
    with watch:
        watch.emit([1, 2])
        watch.emit([9, 3])
    assert watch.ids == [1, 2, 9]
    watch = Stopwatch(limit=2, eos_ids=frozenset(), device="cpu")
    with watch:
        watch.emit([1, 2, 3])
    assert watch.ids == [1, 2]


def test_exact_methods_lose_nothing_and_lossy_ones_are_audited(config, tmp_path):
    results = run(config, tmp_path / "out")
    for method in ("target", "exact:2", "lossless:0.3+scorer=confidence"):
        assert {r["delta"] for r in results.of(method).values()} == {0.0}
    lossy = [r["delta"] for r in results.of("draft").values()]
    assert all(0 < delta < 1 for delta in lossy)
    assert all(r["delta"] is None for r in results.of("bild:0.3").values()), "its rule is no test"


def test_the_closing_audit_is_not_charged_to_the_method(config, tmp_path):
    results = run(config, tmp_path / "out")
    for record in results.of("draft").values():
        assert record["counters"]["target_calls"] == 0
        assert record["tested"] == 0


def test_no_method_profits_from_a_cache_the_one_before_left(config, tmp_path):
    results = run(config, tmp_path / "out")
    for record in results.of("target").values():
        assert record["counters"]["target_tokens"] == record["prompt_tokens"] + 9


def test_a_comparison_cut_short_goes_on_where_it_stopped(config, tmp_path):
    def stop(step):
        if step.done == 9:
            raise KeyboardInterrupt

    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_bench(config, toy_bench(), folder, on_step=stop)
    with (folder / journal.RECORDS_FILE).open("a") as stream:
        stream.write('{"method": "target", "prom')  # a crash in the middle of a line
    before = (folder / journal.RECORDS_FILE).read_text().splitlines()[:9]
    results = run(config, folder, resume=True)
    assert (folder / journal.RECORDS_FILE).read_text().splitlines()[:9] == before
    whole = run(config, tmp_path / "whole")
    assert [(r["prompt"], r["method"], r["ids"]) for r in results.records] == [
        (r["prompt"], r["method"], r["ids"]) for r in whole.records
    ]


def test_a_run_is_not_resumed_with_other_settings_nor_overwritten(config, tmp_path):
    run(config, tmp_path / "out")
    with pytest.raises(DataError, match="max_new_tokens"):
        run(dataclasses.replace(config, max_new_tokens=5), tmp_path / "out", resume=True)
    with pytest.raises(ConfigError, match="--resume"):
        run(config, tmp_path / "out")


def test_a_failed_prompt_is_a_failure_record_and_the_rest_goes_on(config, tmp_path, monkeypatch):
    class Moody:
        name, facts = "moody", {}

        def prepare(self, task):
            self.task = task

        def write(self, task, emit):
            emit([1])
            if task.seed == 2:
                raise RuntimeError("no more")

        def account(self):
            return methods.Account(methods.Counters(target_calls=1, target_tokens=5))

    known = methods.makers()
    monkeypatch.setattr(methods, "makers", lambda: {**known, "moody": lambda spec, bench: Moody()})
    results = run(dataclasses.replace(config, methods="target,moody"), tmp_path / "out")
    (failure,) = results.failures("moody")
    assert failure["error"] == "RuntimeError: no more"
    assert "ids" not in failure
    assert len(results.of("moody")) == 3
    assert len(results.of("target")) == 4


def test_exact_without_a_length_names_the_one_it_found_best_and_keeps_it(config, tmp_path):
    config = dataclasses.replace(config, methods="target,exact", prompts=1)
    results = run(config, tmp_path / "out")
    facts = results.run["methods"][1]["facts"]
    assert results.methods[1] == f"exact-best:{facts['chosen_length']}"
    assert set(facts["ms_per_token"]) == {str(n) for n in range(1, 9)}
    again = run(config, tmp_path / "out", resume=True)
    assert again.methods == results.methods


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "unknown method"),
        ("", "no methods"),
        ("target,target", "named twice"),
        ("sprinter:high", "not a number"),
        ("exact:1+2", "two values"),
    ],
)
def test_a_misspelt_method_is_refused_by_name(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_specs(text)


def test_records_are_plain_json_without_nan(config, tmp_path):
    run(config, tmp_path / "out")
    for line in (tmp_path / "out" / journal.RECORDS_FILE).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in a record"))


def test_results_do_not_tell_where_files_lie(config, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sprinter", "bench", "--data", config.data, f"--out={tmp_path}/out", "a/b"])
    run(dataclasses.replace(config, prompts=1), tmp_path / "out")
    told = (tmp_path / "out" / journal.RUN_FILE).read_text()
    assert str(tmp_path) not in told
    assert "--out=out a/b" in told


def test_every_registered_method_is_benched_by_its_name(tmp_path):
    """On greedy toys, so that the exact ones write the target's text."""
    asked = {
        name: f"{name}:scorer=confidence" if "scorer" in find("methods", name).obeys() else name
        for name in names("methods")
        if find("methods", name).drafter not in ("layers", "layer-chain")  # a toy has one layer, none to leave out
    }
    data = write_texts(tmp_path / "texts.jsonl")
    every = BenchConfig(str(data), ",".join(asked.values()).replace("exact,", "exact:3,", 1), prompts=2, warmup=1)
    run_bench(every, toy_bench(0.0), tmp_path / "out")
    results = journal.read(tmp_path / "out")
    summary = summarise(results)
    assert [m["failures"] for m in summary["methods"].values()] == [0] * len(asked)
    # A copy tests what it copied, and a round without one is the target's own call.
    assert all(r["tested"] >= r["counters"]["target_calls"] for r in results.of("llma").values())
    for name, text in asked.items():
        shown = family(text)
        assert shown != "peer"
        if find("methods", name).exact and name != "target":
            assert shown == "exact"
            own = results.of("exact:3" if name == "exact" else text)
            assert {k: r["ids"] for k, r in own.items()} == {k: r["ids"] for k, r in results.of("target").items()}
    assert "llma+exact" in page(summary, results)


def test_a_bare_value_is_the_methods_own_dial_and_references_reach_those_that_copy():
    bench = dataclasses.replace(toy_bench(), references=("w1 w2",))
    told = {
        text: decoding_of(parse_specs(text)[0], bench)[0] for text in ("llma:6", "llma+exact:4+copy_match=3", "draft")
    }
    assert (told["llma:6"].copy_length, told["llma:6"].references) == (6, ("w1 w2",))
    assert (told["llma+exact:4+copy_match=3"].draft_length, told["llma+exact:4+copy_match=3"].copy_match) == (4, 3)
    assert told["draft"].references == ()
    for wrong, why in (
        ("draft:3", "takes no value"),
        ("exact:0.5", "must be int"),
        ("exact:3+shape=2", "no option 'shape'"),
    ):
        with pytest.raises(ConfigError, match=why):
            decoding_of(parse_specs(wrong)[0], bench)
