"""ROUGE agrees with hand computations, needs nothing from the network, and says what is missing."""

from __future__ import annotations

import socket

import pytest

from sprinter import rouge
from sprinter.errors import CapabilityError
from sprinter.rouge import overlap, require_rouge


@pytest.mark.parametrize(
    ("candidate", "reference", "score"),
    [
        ("", "", 1.0),
        ("a", "", 0.0),
        # Lin 2004, section 3: the longest common subsequence is "police the gunman" or "police kill": 3 of 4, 2 of 4.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("The CAT, sat!", "the cat sat", 1.0),
        ("a b c d e f", "a c e", 2 * 3 / 9),
    ],
)
def test_rouge_l_agrees_with_hand_computations(candidate: str, reference: str, score: float) -> None:
    assert overlap(candidate, reference)["rougeL"] == pytest.approx(score)
    assert overlap(reference, candidate)["rougeL"] == pytest.approx(score)


def test_one_and_two_words_are_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)  # a download would fail
    found = overlap("the cat sat on the mat", "the cat ran on mats")
    assert found["rouge1"] == pytest.approx(2 * 3 / 11)
    assert found["rouge2"] == pytest.approx(2 * 1 / 9)


def test_a_missing_package_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rouge, "find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match=r"pip install 'sprinter-decoding\[bench\]'"):
        require_rouge()
    with pytest.raises(CapabilityError, match="rouge-score"):
        overlap("a", "a")
