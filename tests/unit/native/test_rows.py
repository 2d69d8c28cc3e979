"""What is compiled against the numpy code it stands in for."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprinter.core.chance import Chance
from sprinter.core.law import Law, draw, residual
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.core.tree import Proposal
from sprinter.gates.compiled import CompiledScore
from sprinter.gates.features import SCALARS
from sprinter.gates.verifier import Verifier, VerifierRecord
from sprinter.models.base import facts_of
from sprinter.native import rows
from sprinter.native.library import library
from sprinter.observers import audit

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler or no AVX2 here")

WIDTHS = st.one_of(st.integers(1, 40), st.sampled_from([511, 512, 513, 1024, 1500, 7168]))
DENORMAL = np.float32(1e-40)


@st.composite
def logit_rows(draw: st.DrawFn, finite: bool = False) -> np.ndarray:
    """Rows as models give them, and as they do not: banned tokens, ties, huge and denormal numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(WIDTHS)
    row = rng.normal(size=width) * draw(st.sampled_from([0, 1e-3, 1, 5, 60, 1e4, 1e30]))
    kind = draw(st.sampled_from(["plain", "ties", "denormal", "banned"]))
    if kind == "ties":
        row = np.round(row)
    if kind == "denormal":
        row = np.where(rng.random(width) < 0.5, row, DENORMAL)
    if kind == "banned" and not finite:
        row[rng.random(width) < 0.3] = -np.inf
        row[rng.integers(width)] = 1.0
    return row.astype(np.float32)


def numpy_too(monkeypatch: pytest.MonkeyPatch, call: object) -> tuple[object, object]:
    """What `call` gives compiled and in numpy."""
    with monkeypatch.context() as patch:
        patch.delenv("SPRINTER_NATIVE", raising=False)
        compiled = call()  # type: ignore[operator]
        patch.setenv("SPRINTER_NATIVE", "0")
        return compiled, call()  # type: ignore[operator]


@pytest.fixture(scope="module")
def patch() -> pytest.MonkeyPatch:
    return pytest.MonkeyPatch()


def same(compiled: object, expected: object, size: float = 1.0) -> None:
    np.testing.assert_allclose(compiled, expected, rtol=2e-6, atol=2e-6 * size)


@given(logit_rows())
def test_the_typical_floor_is_numpys(patch: pytest.MonkeyPatch, logits: np.ndarray) -> None:
    assert rows.typical_floor(logits, -1.0, -2.0) is not None
    exact = audit._typical_floor(logits.astype(np.float64))
    same(audit.typical_floor(logits), exact)


@given(logit_rows(), st.sampled_from([1.0, 0.1, 0.7, 30.0]))
def test_a_softmax_is_numpys_and_sums_to_one(patch: pytest.MonkeyPatch, logits: np.ndarray, temperature: float) -> None:
    compiled, expected = numpy_too(patch, lambda: Sampling(temperature).law(logits, ()).probs)
    same(compiled, expected)
    large = expected > 1e-30
    np.testing.assert_allclose(compiled[large], expected[large], rtol=2e-6)
    assert (compiled[np.isneginf(logits)] == 0).all()
    assert abs(compiled.sum(dtype=np.float64) - 1) < 3e-7


@given(logit_rows(), st.floats(-30, 30, width=32))
def test_the_mass_below_a_floor_is_numpys(patch: pytest.MonkeyPatch, logits: np.ndarray, floor: float) -> None:
    law = Sampling().law(logits, ())
    same(*numpy_too(patch, lambda: audit.mass_below(law, logits, floor)))
    at_an_entry = float(logits[len(logits) // 2])
    same(*numpy_too(patch, lambda: audit.mass_below(law, logits, at_an_entry)))


@given(logit_rows(), st.floats(0, 1, exclude_max=True))
def test_a_draw_is_the_inverse_of_the_distribution_function(
    patch: pytest.MonkeyPatch, logits: np.ndarray, point: float
) -> None:
    law = Sampling().law(logits, ())
    drawn = draw(law, point)
    assert law.probs[drawn] > 0
    mass = np.cumsum(law.probs, dtype=np.float64)
    mass /= mass[-1]
    before = mass[drawn - 1] if drawn else 0.0
    assert before - 1e-12 <= point <= mass[drawn] + 1e-12


@pytest.mark.parametrize("point", [0.0, 0.5, np.nextafter(1, 0)])
def test_draws_never_meet_a_place_without_weight(point: float) -> None:
    probs = np.zeros(1500, np.float32)
    probs[[600, 1100]] = 0.5
    assert draw(Law(probs), point) in (600, 1100)
    assert rows.draw(probs, 0.0) == 600


@given(logit_rows(finite=True), st.integers(0, 2**32 - 1), st.booleans())
def test_a_residual_is_numpys(patch: pytest.MonkeyPatch, logits: np.ndarray, seed: int, part: bool) -> None:
    rng = np.random.default_rng(seed)
    target = Sampling().law(logits, ())
    size = int(rng.integers(1, len(logits) + 4))
    ids = np.sort(rng.choice(len(logits) + 4, size, replace=False)).astype(np.int64) if part else None
    draft = Sampling().law(rng.normal(size=size).astype(np.float32) * 3, (), ids)
    excess = np.maximum(target.probs - draft.at(None, len(logits))[: len(logits)], 0)
    found = residual(target, draft)
    if excess.sum() == 0:
        assert found is target
    else:
        same(found.probs, excess / excess.sum(dtype=np.float64))
        assert abs(found.probs.sum(dtype=np.float64) - 1) < 3e-7


def test_equal_laws_leave_the_target(patch: pytest.MonkeyPatch) -> None:
    law = Sampling().law(np.arange(20, dtype=np.float32), ())
    assert residual(law, law) is law


def test_rows_that_the_library_cannot_read_are_left_to_numpy() -> None:
    row = np.arange(20, dtype=np.float32)
    for other in (row.astype(np.float64), row[::2], row[:0]):
        assert rows.softmax(other, 1.0) is None
        assert rows.draw(other, 0.5) is None
        assert rows.typical_floor(other, -1.0, -1.0) is None
        assert rows.mass_below(other, row, 0.0) is None


def test_a_read_only_row_is_read(patch: pytest.MonkeyPatch) -> None:
    row = np.arange(20, dtype=np.float32)
    writable = rows.softmax(row, 1.0)
    row.flags.writeable = False
    assert np.array_equal(rows.softmax(row, 1.0), writable)


# --- the verifier


def make_verifier(features: tuple[str, ...], hidden: int, width: int, layers: int, seed: int, curve: bool) -> Verifier:
    rng = np.random.default_rng(seed)
    inputs = sum(hidden if name in ("hidden", "embedding") else 1 for name in features)
    sizes = [inputs, *[width] * layers, 2]
    weights = [
        (rng.normal(size=(b, a)).astype(np.float32) / np.sqrt(a), rng.normal(size=b).astype(np.float32))
        for a, b in pairwise(sizes)
    ]
    knots = {"knots": [0.0, 0.2, 0.55, 0.9], "values": [0.1, 0.15, 0.6, 0.95]}
    record = VerifierRecord(
        features, ("accept", "typical"), len(weights), "d", "t", (), 0.5, "0", {"typical": knots} if curve else {}
    )
    return Verifier(weights, record, "typical")


@st.composite
def drafts(draw_: st.DrawFn, hidden: int) -> Text:
    """A text with up to two judged tokens and a fresh one."""
    rng = np.random.default_rng(draw_(st.integers(0, 2**32 - 1)))
    logits = draw_(logit_rows())
    width = 3 * len(logits)
    ids = np.sort(rng.choice(width, len(logits), replace=False)) if draw_(st.booleans()) else None
    sampling = Sampling(draw_(st.sampled_from([0.0, 1.0])), top_p=draw_(st.sampled_from([1.0, 0.8])))
    law = sampling.law(logits, (), ids)
    prompt = rng.integers(0, width, 5).tolist()
    text = Text(prompt, 10, sampling, Chance(0), Limits(width, 100))
    for _ in range(draw_(st.integers(1, 3))):
        if text.tree.tokens:
            text.tree.settle(float(rng.random()) if rng.random() < 0.7 else None, True)
        token = draw(law, rng.random())
        state = rng.normal(size=hidden).astype(np.float32)
        text.add(Proposal(token, law, logits, facts_of(logits[None]).table[0], ids, state, partial(embedding, hidden)))
    return text


def embedding(hidden: int, token: int) -> np.ndarray:
    return np.full(hidden, token % 7 / 7, np.float32)


FEATURES = st.sampled_from(
    [
        ("hidden", "embedding", *SCALARS),
        ("margin", "embedding", "log_q", "hidden", "echo_other"),
        ("hidden", "embedding"),
        ("embedding",),
        SCALARS[:3],
        ("hidden", "rank"),
    ]
)


@given(
    st.data(), FEATURES, st.integers(0, 3), st.sampled_from([1, 16, 20]), st.booleans(), st.sampled_from([8, 24, 13])
)
def test_a_compiled_score_is_numpys(
    patch: pytest.MonkeyPatch,
    data: st.DataObject,
    features: tuple[str, ...],
    layers: int,
    width: int,
    curve: bool,
    hidden: int,
) -> None:
    text = data.draw(drafts(hidden))
    (proposal,) = text.tree.fresh
    verifier = make_verifier(features, hidden, width, layers, 0, curve)
    assert verifier._compiled is not None
    with patch.context() as context:
        context.setenv("SPRINTER_NATIVE", "0")
        expected = make_verifier(features, hidden, width, layers, 0, curve).score(text, proposal)
    for _ in range(2):  # the second time the token's embedding is known
        np.testing.assert_allclose(verifier.score(text, proposal), expected, atol=1e-5)
        assert verifier._compiled.score(proposal, np.zeros(len(SCALARS), np.float32)) is not None


@settings(max_examples=20)
@given(drafts(24))
def test_both_levels_score_and_sum_with_the_same_bits(text: Text) -> None:
    compiled = library()
    (proposal,) = text.tree.fresh
    verifier, logits = make_verifier(("hidden", "embedding", *SCALARS), 24, 16, 2, 0, True), proposal.logits
    assert logits is not None
    found = []
    try:
        for level in (0, 1):
            compiled.sprinter_use_level(level)  # type: ignore[union-attr]
            law = Sampling(0.9).law(logits, ())
            found.append((verifier.score(text, proposal), audit.typical_floor(logits), law.probs.tobytes()))
    finally:
        compiled.sprinter_use_level(1)  # type: ignore[union-attr]
    assert found[0] == found[1]


def test_a_state_the_library_cannot_read_is_scored_in_numpy() -> None:
    text = Text([1], 5, Sampling(), Chance(0), Limits(9, 100))
    text.add(Proposal(3, Law(np.full(9, 1 / 9)), None, None, None, np.ones(8, np.float64)))
    verifier = make_verifier(("hidden", *SCALARS), 8, 16, 1, 0, False)
    assert isinstance(verifier._compiled, CompiledScore)
    assert verifier._compiled.score(text.tree.fresh[0], np.zeros(len(SCALARS), np.float32)) is None
    assert 0 < verifier.score(text, text.tree.fresh[0]) < 1
