"""Fitting: splits, reproducibility, calibration, and what a damaged verifier says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprinter.build import Pair
from sprinter.cli.train import _verdict
from sprinter.core.chance import Chance
from sprinter.core.law import Law
from sprinter.core.rows import FloatArray
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.core.tree import Proposal
from sprinter.errors import BackendError, DataError
from sprinter.gates.features import SCALARS, assemble, scalars, vector
from sprinter.gates.verifier import load_verifier, require_pair
from sprinter.learn.collect import CollectSettings, describe
from sprinter.learn.fit import PRESETS, Sides, curve, fit, scores_of, threshold_at
from sprinter.learn.labels import LABELS
from sprinter.learn.metrics import auc, average_precision, brier, calibration_error
from sprinter.learn.prompts import read_prompts
from sprinter.learn.rounds import train_rounds
from sprinter.learn.rows import Rows, load_rows
from sprinter.learn.save import save_verifier
from sprinter.models.base import facts_of

HIDDEN = 12
QUICK = replace(PRESETS["default"], epochs=8, widths=(16,), batch=32, dropout=0.0)


def made_rows(num_entries: int = 120, per_entry: int = 20, seed: int = 0) -> Rows:
    """Rows whose soft label is a known function of hidden state and embedding."""
    rng = np.random.default_rng(seed)
    count = num_entries * per_entry
    hidden, embedding = rng.normal(size=(2, count, HIDDEN)).astype(np.float16)
    logit = hidden[:, 0].astype(float) * 1.5 + embedding[:, 1].astype(float) * 2
    accept = 1 / (1 + np.exp(-logit))
    labels = np.zeros((count, len(LABELS)), np.float32)
    labels[:, 0], labels[:, 2] = accept, accept
    labels[:, 1] = labels[:, 3] = rng.random(count) < accept
    places = np.arange(count)
    return Rows(
        hidden=hidden,
        embedding=embedding,
        context=places,
        embedding_of=places,
        token=places % 7,
        step=places % per_entry,
        prompt=places // per_entry,
        transform=np.zeros(count, np.int64),
        scalars=rng.normal(size=(count, len(SCALARS))).astype(np.float32),
        labels=labels,
        titles=tuple(f"entry {n}" for n in range(num_entries)),
        transforms=tuple(describe(CollectSettings())["transforms"]),
        draft_fingerprint="d" * 64,
        target_fingerprint="t" * 64,
    )


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made_rows()


def test_no_entry_is_on_two_sides(rows: Rows) -> None:
    sides = Sides.of(rows.titles)
    parts = list(vars(sides).values())
    assert sum(map(len, parts)) == len(frozenset().union(*parts)) == len(set(rows.titles))
    places = np.concatenate([rows.places(side) for side in parts])
    assert sorted(places) == list(range(len(rows)))


def test_training_is_reproducible_and_the_seed_matters(rows: Rows) -> None:
    first, again, other = (fit(rows, replace(QUICK, epochs=2, seed=s)) for s in (0, 0, 1))
    for (w1, b1), (w2, b2) in zip(first.layers, again.layers, strict=True):
        assert (w1 == w2).all() and (b1 == b2).all()
    assert first.calibration == again.calibration
    assert (first.layers[0][0] != other.layers[0][0]).any()


def test_soft_labels_and_the_embedding_beat_the_papers_head(rows: Rows) -> None:
    ours = fit(rows, QUICK).metrics["T=1"]["accept"]
    paper = fit(rows, replace(PRESETS["paper"], epochs=3)).metrics["T=1"]["accept_hard"]
    assert ours["auc"] > paper["auc"] + 0.03
    assert ours["ece"] < 0.06


def test_a_saved_verifier_scores_as_it_was_measured(rows: Rows, tmp_path: Path) -> None:
    fitted = fit(rows, replace(QUICK, epochs=2))
    save_verifier(tmp_path / "v", fitted, rows)
    places = np.arange(5)
    for output in QUICK.outputs:
        verifier = load_verifier(tmp_path / "v", output)
        batch = verifier.score_batch(rows.inputs(QUICK.features, places))
        np.testing.assert_allclose(batch, scores_of(fitted, rows, places)[output], atol=1e-5)


def drafted(
    token: int, logits: FloatArray, hidden: FloatArray | None = None, embedding: FloatArray | None = None
) -> Proposal:
    """A token drawn from a uniform law over the width of `logits`."""
    law = Law(np.full(len(logits), 1 / len(logits)))
    embed = None if embedding is None else lambda token: embedding
    return Proposal(token, law, logits, facts_of(logits[None]).table[0], None, hidden, embed)


def test_stored_rows_give_the_features_the_gate_sees() -> None:
    rng = np.random.default_rng(0)
    hidden, embedding, logits = rng.normal(size=(3, 6)).astype(np.float32)
    proposal = drafted(2, logits, hidden, embedding)
    names = ("embedding", "rank", "hidden", "entropy")
    numbers = scalars(proposal, 3, None, (1, 2))
    stored = assemble(names, hidden[None], embedding[None], numbers[None])
    np.testing.assert_array_equal(stored[0], vector(names, proposal, numbers))


def test_a_damaged_verifier_is_one_clear_error(rows: Rows, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    save_verifier(folder, fit(rows, replace(QUICK, epochs=1)), rows)
    with pytest.raises(DataError, match=r"trained for draft d{12}"):
        require_pair(load_verifier(folder), "x" * 64, "t" * 64, folder)
    weights, record = folder / "verifier.safetensors", folder / "verifier.json"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BackendError, match="is damaged: its SHA-256"):
        load_verifier(folder)
    weights.unlink()
    with pytest.raises(BackendError, match="incomplete"):
        load_verifier(folder)
    weights.write_bytes(data)
    text = record.read_text()
    record.write_text(text[: len(text) // 2])
    with pytest.raises(BackendError, match="not valid JSON"):
        load_verifier(folder)
    described = json.loads(text)
    del described["features"]
    record.write_text(json.dumps(described))
    with pytest.raises(BackendError, match="missing required field `features`"):
        load_verifier(folder)


def test_a_full_disk_leaves_nothing_half_written(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit(rows, replace(QUICK, epochs=1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DataError, match="No space left"):
        save_verifier(tmp_path / "v", fitted, rows)
    assert list(tmp_path.iterdir()) == []


def test_rounds_add_the_rows_the_gate_led_to(tiny_pair: Pair, prompts_file: Path, tmp_path: Path) -> None:
    from sprinter.learn.collect import collect

    prompts = read_prompts([prompts_file])
    settings = CollectSettings(tokens=5, transforms=(Sampling(),), batch=20)
    collect(tiny_pair, prompts, tmp_path / "rows", settings)
    fitted = train_rounds(
        tiny_pair, prompts, [tmp_path / "rows"], tmp_path / "v", replace(QUICK, epochs=1), settings, rounds=2
    )
    alone, second = load_rows([tmp_path / "rows"]), load_rows([tmp_path / "v" / "rounds" / "2"])
    assert fitted.metrics["rows"] == len(alone) + len(second)
    require_pair(
        load_verifier(tmp_path / "v"), tiny_pair.draft.info.fingerprint, tiny_pair.target.info.fingerprint, tmp_path
    )


def test_the_threshold_keeps_the_loss_within_delta() -> None:
    score, accept = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 0.9, 0.8, 0.1])
    assert threshold_at(score, accept, 0.08) == 0.7  # (0 + 0.1 + 0.2) / 4 = 0.075
    assert threshold_at(score, accept, 1.0) == 0.6


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_ordered_pairs(pairs: list[tuple[int, bool]]) -> None:
    score, label = (np.array(part, float) for part in zip(*pairs, strict=True))
    ups, downs = score[label == 1], score[label == 0]
    if len(ups) and len(downs):
        wins = (ups[:, None] > downs).mean() + (ups[:, None] == downs).mean() / 2
        assert auc(score, label) == pytest.approx(wins)


def test_measures_of_hand_worked_scores() -> None:
    score, label = np.array([0.9, 0.6, 0.4]), np.array([1.0, 0.0, 1.0])
    assert average_precision(score, label) == pytest.approx((1 + 2 / 3) / 2)
    assert brier(score, label) == pytest.approx((0.01 + 0.36 + 0.36) / 3)
    assert calibration_error(score, label, bins=2) == pytest.approx((2 * 0.25 + 0.6) / 3)
    # A soft label is a coin: its Brier score is the mean over both sides.
    assert brier([0.3], [0.25]) == pytest.approx(0.25 * 0.49 + 0.75 * 0.09)


def test_a_calibration_curve_rises_strictly_and_calibrates() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(4000)
    label = (rng.random(4000) < score**2).astype(float)
    knots = curve(score, label)
    assert (np.diff(knots["values"]) > 0).all() and (np.diff(knots["knots"]) > 0).all()
    fresh = rng.random(4000)
    mapped = np.interp(fresh, knots["knots"], knots["values"])
    assert calibration_error(mapped, (rng.random(4000) < fresh**2).astype(float)) < 0.04


def test_a_score_in_two_parts_is_the_score_of_the_whole_vector(rows: Rows, tmp_path: Path) -> None:
    save_verifier(tmp_path / "v", fit(rows, replace(QUICK, epochs=1)), rows)
    verifier = load_verifier(tmp_path / "v")
    rng = np.random.default_rng(0)
    for token in (3, 1, 3):
        embedding = np.random.default_rng(token).normal(size=HIDDEN).astype(np.float32)
        hidden, logits = rng.normal(size=HIDDEN).astype(np.float32), rng.normal(size=9).astype(np.float32)
        text = Text([1], 5, Sampling(), Chance(0), Limits(9, 99))
        text.add(drafted(token, logits, hidden, embedding))
        (proposal,) = text.tree.fresh
        inputs = vector(verifier.record.features, proposal, scalars(proposal, 0, 1.0, (0, 0)))
        assert verifier.score(text, proposal) == pytest.approx(verifier.score_batch(inputs[None])[0], abs=1e-6)


def test_scalars_bear_banned_tokens_and_a_vocabulary_of_one() -> None:
    logits = np.array([0.0, -np.inf, 1.0, 2.0], np.float32)
    found = scalars(drafted(2, logits), 0, 1.0, (0, 0))
    probs = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    expected = [
        np.log(0.25),
        np.log(probs[1]),
        -(probs * np.log(probs)).sum(),
        probs[2] - probs[1],
        np.log(2),
        0,
        1,
        0,
        0,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    alone = scalars(drafted(0, np.zeros(1, np.float32)), 0, 1.0, (0, 0))
    np.testing.assert_allclose(alone, [0, 0, 0, 1, 0, 0, 1, 0, 0], atol=1e-6)


def test_a_verifier_that_vouches_for_nothing_says_that_it_brings_no_speed() -> None:
    fitted = fit(made_rows(num_entries=40), QUICK)
    assert _verdict(replace(fitted, default_threshold=0.7)) == ""
    assert "NO SPEED-UP, it vouches for nothing" in _verdict(replace(fitted, default_threshold=1.0))
