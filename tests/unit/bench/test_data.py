"""Prompts come from every format alike, and what is wrong with a file is said by place."""

from __future__ import annotations

import sys

import pytest

from sprinter.bench.data import SAMPLE, load_prompts
from sprinter.errors import DataError
from sprinter.learn.prompts import json_lines
from sprinter.learn.splits import TEST_BUCKETS, bucket

TEXTS = [f"text number {n} has some words to go on with and then ends" for n in range(6)]


def write(folder, ending):
    file = folder / f"texts.{ending}"
    if ending == "csv":
        file.write_text("title,text\n" + "".join(f"t{n},{t}\n" for n, t in enumerate(TEXTS)))
    elif ending == "txt":
        file.write_text("\n\n".join(TEXTS))
    elif ending == "jsonl":
        file.write_text("".join(f'{{"text": "{t}"}}\n' for t in TEXTS))
    else:
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({"text": TEXTS}), file)
    return file


@pytest.mark.parametrize("ending", ["jsonl", "txt", "csv", "parquet"])
def test_every_format_gives_the_same_prompts(tmp_path, ending):
    prompts = load_prompts(str(write(tmp_path, ending)), 6)
    assert sorted(f"{p.text} {p.reference}" for p in prompts) == TEXTS
    assert all(len(p.text.split()) == 3 for p in prompts)


def test_the_order_depends_on_the_seed_alone(tmp_path):
    file = str(write(tmp_path, "csv"))
    assert load_prompts(file, 4, seed=1) == load_prompts(file, 4, seed=1)
    assert load_prompts(file, 4, seed=1) != load_prompts(file, 4, seed=2)


def test_the_sample_is_never_text_that_trained_anything():
    titles = [row["title"] for _, row in json_lines(SAMPLE)]
    assert len(titles) >= 10
    assert {bucket(title) for title in titles} <= TEST_BUCKETS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "title,body\nx,y\n", "row 1 has no column 'text'.*body"),
        ("a.jsonl", '{"text": "a b c"}\n[]\n', "line 2"),
        ("a.docx", "x", "unknown ending"),
        ("a.txt", "\n", "no text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_prompts(str(tmp_path / name), 2)


def test_a_data_set_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"sprinter-decoding\[bench\]"):
        load_prompts("lm1b", 3)


def test_presets_stream_from_the_hub(monkeypatch):
    class Hub:
        @staticmethod
        def load_dataset(path, split, streaming):
            assert (path, split, streaming) == ("billion-word-benchmark/lm1b", "test", True)
            return iter({"text": text} for text in TEXTS)

    monkeypatch.setitem(sys.modules, "datasets", Hub)
    assert len(load_prompts("lm1b", 3)) == 3


def test_nothing_at_all_is_an_error():
    with pytest.raises(DataError, match="no data at"):
        load_prompts("nowhere", 3)
