"""A collection turns into rows to replay without mixing prompts, transforms or gates."""

import numpy as np
import pytest

from sprinter.bench.collected import replayable
from sprinter.bench.frontier import Traces
from sprinter.errors import DataError


def made(name):
    scores = {"accept": np.array([0.9, 0.8, 0.1]), "entropy": np.array([0.3, 0.2, 0.1])}
    return Traces(name, np.array([0, 0, 1]), 2, np.array([1.0, 0.5, 0.25]), np.ones(3), np.zeros(3), scores)


def test_rows_of_a_collection_stay_with_their_prompt_and_gate():
    rows = replayable([made("greedy"), made("T=1")], "entropy", "T=1")
    assert [r.accept.tolist() for r in rows] == [[1.0, 0.5], [0.25]]
    assert [r.score.tolist() for r in rows] == [[0.3, 0.2], [0.1]]


def test_a_transform_that_was_not_collected_is_refused_by_name():
    with pytest.raises(DataError, match=r"T=0.7.*greedy; T=1"):
        replayable([made("greedy"), made("T=1")], "accept", "T=0.7")
