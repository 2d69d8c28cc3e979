"""The echo features: what they count, and that a text that was cut and rewritten counts like one read afresh."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sprinter.core.records import Counters
from sprinter.core.sampling import Dice, Sampling
from sprinter.drafters.model import ModelDrafter
from sprinter.gates.echo import LONGEST, Echo
from sprinter.models.toy import ToyModel

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=30)


def counted(tokens: list[int], token: int) -> tuple[int, int]:
    """By the definition: every earlier place, every length."""
    same = other = 0
    for place in range(len(tokens) - 1):
        for order in range(1, LONGEST + 1):
            if place + 1 < order or tokens[place + 1 - order : place + 1] != tokens[-order:]:
                break
            if tokens[place + 1] == token:
                same = max(same, order)
            else:
                other = max(other, order)
    return same, other


@given(TOKENS, st.integers(0, 3))
def test_an_echo_is_the_longest_ending_that_stood_before(tokens: list[int], token: int) -> None:
    assert Echo().look(tokens, token) == counted(tokens, token)


@given(st.lists(st.tuples(st.integers(0, 8), TOKENS), min_size=1, max_size=8))
def test_what_was_cut_from_a_text_leaves_no_trace(edits: list[tuple[int, list[int]]]) -> None:
    echo, tokens = Echo(), [1]
    for cut, more in edits:
        tokens = [*tokens[: max(1, len(tokens) - cut)], *more]
        assert echo.look(tokens, more[0]) == counted(tokens, more[0])
    fresh = Echo()
    fresh.look(tokens, 0)
    assert echo._followers == fresh._followers


def test_the_drafter_hands_the_echo_of_its_own_context_on() -> None:
    drafter = ModelDrafter(ToyModel.random(4, order=1, seed=3), Sampling(), 4)
    dice, counters = Dice(np.random.default_rng(0)), Counters()
    tokens = [0, 1, 2, 3]
    for _ in range(60):
        proposal = drafter.propose(tokens, dice, counters)
        assert proposal.echo == counted(tokens, proposal.token)
        # Every third token falls, as a rejected one does.
        tokens = [*tokens, proposal.token] if len(tokens) % 3 else [*tokens[:-1], (proposal.token + 1) % 4, 0]


def test_a_drafter_need_not_look_for_echoes() -> None:
    drafter = ModelDrafter(ToyModel.random(4, order=1, seed=3), Sampling(), 4, echoes=False)
    proposal = drafter.propose([0, 1, 0, 1, 0], Dice(np.random.default_rng(0)), Counters())
    assert counted([0, 1, 0, 1, 0], proposal.token) != (0, 0)
    assert proposal.echo == (0, 0)
