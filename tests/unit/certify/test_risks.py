"""Losses of a prompt: on the scale of the bounds, and never from tokens nobody looked at."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprinter.certify.risks import RISKS, losses_of, risk_named, rouge_l
from sprinter.errors import ConfigError, DataError
from sprinter.records import AuditReport, Counters, Generation

REPORT = AuditReport(50, 0, 0.04, 0.3, 0.2, 0.1, 0.4, 0.95)


def generation(report: AuditReport | None, text: str = "the cat sat") -> Generation:
    return Generation("p", text, "sprinter", 0.8, (), "length", 3, 1.0, 0.1, Counters(), report)


def test_losses_come_on_the_unit_scale() -> None:
    losses = losses_of(generation(REPORT), "the cat sat")
    assert losses == pytest.approx({"tv": 0.04, "atypical": 0.3, "excess": 0.55, "rouge": 0.0})
    assert "rouge" not in losses_of(generation(REPORT))


def test_tokens_nobody_looked_at_are_refused() -> None:
    with pytest.raises(DataError, match="2 tokens were never audited"):
        losses_of(generation(dataclasses.replace(REPORT, tokens_unaudited=2)))
    with pytest.raises(DataError, match="not audited"):
        losses_of(generation(None))


@given(st.sampled_from(sorted(RISKS)), st.floats(0, 1))
def test_unit_and_value_are_inverse(name: str, unit: float) -> None:
    risk = risk_named(name)
    assert risk.unit(risk.value(unit)) == pytest.approx(unit, abs=1e-12)


def test_an_unknown_loss_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(ConfigError, match="tv, atypical, excess, rouge"):
        risk_named("bleu")


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
    assert rouge_l(candidate, reference) == pytest.approx(score)
    assert rouge_l(reference, candidate) == pytest.approx(score)
