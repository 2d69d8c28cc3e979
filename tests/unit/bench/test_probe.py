"""The probe's rows are the target's own acceptance chances, scored by the scorer."""

import dataclasses

import numpy as np
import pytest

from sprinter.bench.labelled import read_labelled
from sprinter.bench.probe import Parts, probe_rows
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits
from sprinter.drafters.model import ModelDrafter
from sprinter.errors import DataError
from sprinter.gates.confidence import Confidence
from sprinter.models.toy import ToyModel
from sprinter.theory.one_step import acceptance_rate

VOCAB = 8


def parts_of(target, draft, sampling=None):
    sampling = sampling or Sampling()
    return Parts(target, ModelDrafter(draft), Confidence(), sampling, Limits(VOCAB, 4096))


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def test_probed_acceptance_is_alpha_where_the_law_never_changes():
    rng = np.random.default_rng(0)
    target_logits, draft_logits = rng.normal(0, 1.2, VOCAB), rng.normal(0, 1.2, VOCAB)
    parts = parts_of(ToyModel(lambda c: target_logits, VOCAB), ToyModel(lambda c: draft_logits, VOCAB))
    traces = probe_rows(parts, [[1], [2, 3]] * 8, 80, seed=1)
    accept = np.concatenate([t.accept for t in traces])
    expected = acceptance_rate(softmax(target_logits), softmax(draft_logits))
    assert [len(t.accept) for t in traces] == [80] * 16  # one row for every token of the text
    assert abs(accept.mean() - expected) < 4 * accept.std() / np.sqrt(len(accept))


def test_a_model_drafting_for_itself_is_always_accepted_and_scored_by_the_scorer():
    model = ToyModel.random(VOCAB, 3)
    traces = probe_rows(parts_of(model, ToyModel.random(VOCAB, 3)), [[1, 2]], 30, seed=1)
    assert traces[0].accept == pytest.approx(np.ones(30))
    assert 0 < traces[0].score.min() < traces[0].score.max() <= 1


def test_greedy_rows_are_zero_or_one():
    target = ToyModel.random(VOCAB, 3)
    traces = probe_rows(parts_of(target, target.near(5), Sampling(temperature=0)), [[1]], 40, seed=1)
    assert set(traces[0].accept.tolist()) == {0.0, 1.0}


def test_a_probe_of_nothing_is_refused():
    model = ToyModel.random(VOCAB, 3)
    with pytest.raises(DataError):
        probe_rows(parts_of(model, model), [], 10, seed=0)


def test_a_survivor_s_word_on_every_token_is_kept_beside_the_score():
    class Half(Confidence):
        def score(self, text, proposal):
            return super().score(text, proposal) / 2

    target = ToyModel.random(VOCAB, 3)
    parts = dataclasses.replace(parts_of(target, target.near(5)), survivor=Half())
    for trace in probe_rows(parts, [[1], [2]], 40, seed=1):
        assert len(trace.accept) == 40
        np.testing.assert_allclose(trace.survival, trace.score / 2)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        '{"prompt": 1, "accept": 0.5}',
        '{"prompt": 1, "accept": 1.5, "score": 0}',
        '{"prompt": 1, "accept": "x", "score": 0}',
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, line):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": 1, "accept": 0.5, "score": 0.5}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        read_labelled(file)


def test_an_empty_file_is_refused(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n")
    with pytest.raises(DataError, match="no labelled row"):
        read_labelled(file)
