"""The verifier in tensors of fixed shapes computes what the verifier and the echo on the host compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sprinter.core.records import Draft, FloatArray, Law, Proposal
from sprinter.gates.echo import LONGEST, Echo
from sprinter.gates.features import SCALARS, VECTORS
from sprinter.gates.static import NOTHING, Drawn, StaticVerifier, echo_at
from tests.support.verifiers import ALL_FEATURES, CURVE, random_verifier

HIDDEN, VOCAB = 6, 40
CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=24)


def double(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def both(logits: FloatArray, token: int, seed: int = 0, before: tuple[float, ...] = ()) -> tuple[Draft, Drawn]:
    """One drafted token for the host and for the device; `before`: scores of those drafted before it."""
    rng = np.random.default_rng(seed)
    hidden, embedding = rng.normal(size=(2, HIDDEN)).astype(np.float32)
    shifted = np.exp(logits - logits.max())
    law, echo = Law((shifted / shifted.sum()).astype(np.float32)), (int(rng.integers(7)), int(rng.integers(7)))
    proposal = Proposal(token, law, logits, None, hidden, embedding, echo)
    draft = Draft([0] * len(before), [proposal] * len(before), list(before), [True] * len(before))
    draft.append(proposal)
    drawn = Drawn(
        place=torch.tensor([token]),
        prob=torch.tensor([law.prob(token)]),
        logits=torch.tensor(logits),
        hidden=torch.tensor(hidden),
        embedding=torch.tensor(embedding),
        echo=torch.tensor(echo, dtype=torch.float64),
        since_target=double(len(before)),
        previous_score=double(before[-1] if before else 1.0),
    )
    return draft, drawn


def some_logits(seed: int, kind: str = "plain") -> FloatArray:
    logits = np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)
    if kind == "banned":
        logits[:5] = -np.inf
    if kind == "tied":
        logits[3] = logits[7] = logits.max() + 1
    if kind == "sure":
        logits[0] = 200
    return logits


@pytest.mark.parametrize("feature", [*SCALARS, *VECTORS])
@pytest.mark.parametrize("kind", ["plain", "banned", "tied", "sure"])
def test_each_feature_alone(feature: str, kind: str) -> None:
    verifier = random_verifier(HIDDEN, (feature,), width=None)
    static = StaticVerifier(verifier, CPU)
    for seed, token in enumerate((7, 20, int(some_logits(2, kind).argmax()))):
        draft, drawn = both(some_logits(seed, kind), token, seed, before=(0.9, 0.4)[: seed % 3])
        assert abs(float(static.score(drawn)) - verifier.score(draft)) < 1e-6


@pytest.mark.parametrize("width", [None, 16])
@pytest.mark.parametrize("curve", [None, CURVE, {"knots": [0.4], "values": [0.3]}])
def test_all_features_together(width: int | None, curve: dict[str, list[float]] | None) -> None:
    features = tuple(np.random.default_rng(1).permutation(ALL_FEATURES).tolist())
    for seed in range(6):
        verifier = random_verifier(HIDDEN, features, seed, width, curve)
        draft, drawn = both(some_logits(seed), 9, seed, before=(0.7,))
        assert abs(float(StaticVerifier(verifier, CPU).score(drawn)) - verifier.score(draft)) < 1e-5


def test_a_flat_piece_of_the_curve_gives_its_very_value() -> None:
    """A threshold is often such a value, and one bit less would refuse every token on it."""
    flat = {"knots": [0.0, 0.2, 0.8, 1.0], "values": [0.1, 0.6952, 0.6952, 0.9]}
    verifier = random_verifier(HIDDEN, ("hidden",), curve=flat)
    static, met = StaticVerifier(verifier, CPU), 0
    for seed in range(20):
        draft, drawn = both(some_logits(seed), 9, seed)
        if verifier.score(draft) == 0.6952:
            met += 1
            assert float(static.score(drawn)) == 0.6952
    assert met > 5


@settings(max_examples=60)
@given(TOKENS, st.integers(0, 3), st.lists(st.integers(0, 3), max_size=5), st.integers(0, 4))
def test_the_echo_is_the_hosts_whatever_stands_behind_the_text(
    tokens: list[int], token: int, behind: list[int], spare: int
) -> None:
    window = len(tokens) + len(behind) + spare
    text = torch.full((LONGEST + window + 1,), NOTHING)
    text[LONGEST : LONGEST + len(tokens) + len(behind)] = torch.tensor([*tokens, *behind])
    found = echo_at(text, torch.tensor([len(tokens) - 1]), torch.tensor([token]), window)
    assert tuple(found.tolist()) == Echo().look(tokens, token)
