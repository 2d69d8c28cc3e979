"""What trained a part is known by its hashes, and nobody calibrates or collects on it unawares."""

from __future__ import annotations

from pathlib import Path

import pytest

from sprinter.errors import DataError
from sprinter.learn.save import save_verifier
from sprinter.learn.trained import FILE, note_trained, trained_on, unseen
from tests.unit.learn.test_fit import QUICK, made_rows
from tests.unit.learn.test_fit import fit as fitted


def test_marks_are_kept_sorted_and_added_to(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    assert trained_on(first) is None
    note_trained(first, ["one", "two", " one "])
    note_trained(second, ["three"], first)
    known = trained_on(second)
    assert known is not None and len(known) == 3 > len(trained_on(first) or ()) == 2
    assert (second / FILE).stat().st_size == 24


def test_what_trained_a_part_is_left_out_with_a_count_and_what_nobody_noted_is_named(tmp_path: Path) -> None:
    for name in ("draft", "verifier", "old"):
        (tmp_path / name).mkdir()
    note_trained(tmp_path / "draft", ["t0", "t1"])
    note_trained(tmp_path / "verifier", ["the words of 2"])
    rows = [(f"t{n}", f"the words of {n}") for n in range(5)]
    parts = {name: tmp_path / name for name in ("draft", "verifier", "old")}
    kept, told = unseen(rows, parts, lambda row: row)
    assert kept == rows[3:]
    assert told[:2] == [
        "2 of 5 texts trained the draft: they are left out",
        "1 of 5 texts trained the verifier: they are left out",
    ]
    assert told[2].startswith("nobody noted what trained the old")
    assert unseen(rows[3:], {"draft": tmp_path / "draft"}, lambda row: row) == (rows[3:], [])


@pytest.mark.parametrize("content", [b"short", b"b" * 8 + b"a" * 8, b"a" * 16])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        trained_on(tmp_path)


def test_a_verifier_knows_the_entries_of_its_rows(tmp_path: Path) -> None:
    rows = made_rows(num_entries=30)
    save_verifier(tmp_path / "verifier", fitted(rows, QUICK), rows)
    kept, told = unseen(["entry 3", "entry 29", "entry 30"], {"verifier": tmp_path / "verifier"}, lambda row: [row])
    assert kept == ["entry 30"]
    assert "2 of 3 texts trained the verifier" in told[0]
