"""The echo features: what they count, and that a text that was cut and rewritten counts like one read afresh."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sprinter.gates.echo import LONGEST, Echo

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
    assert Echo().look(tokens, len(tokens), token) == counted(tokens, token)


@given(st.lists(st.tuples(st.integers(0, 8), TOKENS), min_size=1, max_size=8))
def test_what_was_cut_from_a_text_leaves_no_trace(edits: list[tuple[int, list[int]]]) -> None:
    echo, tokens = Echo(), [1]
    for cut, more in edits:
        kept = max(1, len(tokens) - cut)
        echo.rewind(kept)
        tokens = [*tokens[:kept], *more]
        assert echo.look(tokens, len(tokens), more[0]) == counted(tokens, more[0])
    fresh = Echo()
    fresh.look(tokens, len(tokens), 0)
    assert echo._followers == fresh._followers


@given(TOKENS, st.integers(1, 30), st.integers(0, 3))
def test_only_the_asked_length_is_looked_at(tokens: list[int], length: int, token: int) -> None:
    length = min(length, len(tokens))
    assert Echo().look(tokens, length, token) == counted(tokens[:length], token)
