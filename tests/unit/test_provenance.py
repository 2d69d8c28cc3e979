"""A stamp says how a result came about, and nothing about the folders of a machine."""

from __future__ import annotations

import sys

import pytest

from sprinter.provenance import stamp


def test_the_command_names_files_not_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "/home/me/bin/run.py",
        "--data=/mnt/x/texts.jsonl",
        "set=/mnt/x/a.jsonl",
        "/mnt/x/b.jsonl",
        "c=0.1",
        "src/d",
    ]
    monkeypatch.setattr(sys, "argv", words)
    assert stamp()["command"] == "run.py --data=texts.jsonl set=a.jsonl b.jsonl c=0.1 src/d"
