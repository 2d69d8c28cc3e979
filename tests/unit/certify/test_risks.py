"""Losses of a prompt: on the scale of the bounds, and never from tokens nobody looked at."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprinter.certify.risks import RISKS, losses_of, risk_named
from sprinter.core.records import AuditReport, Counters, Generation
from sprinter.errors import ConfigError, DataError

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
