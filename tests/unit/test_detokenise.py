"""Ids to text: whole characters, stop strings, and nothing lost or shown twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprinter.core.records import Emitted, Token
from sprinter.detokenise import TextStream
from sprinter.errors import ConfigError
from tests.support.tiny import fast_tokenizer, piece_tokenizer

TOKENIZER = fast_tokenizer()
PROMPT = TOKENIZER.encode("say the ").ids
TEXTS = st.text(alphabet="the and\n🚀é漢👩\u200d👧�", max_size=20)


def stream(ids: list[int], stop: tuple[str, ...] = ()) -> list[Token]:
    return list(TextStream(TOKENIZER, PROMPT, stop).tokens(Emitted(i, "bonus", None) for i in ids))


PIECES = piece_tokenizer()


def told(ids: Sequence[int], prompt: Sequence[int] = ()) -> str:
    """What is shown of `ids` by a tokenizer of pieces with byte fallback."""
    emitted = (Emitted(i, "bonus", None) for i in ids)
    return "".join(t.text for t in TextStream(PIECES, prompt).tokens(emitted))


@given(st.text(alphabet="the and漢字é🚀", max_size=12), st.text(alphabet="the and漢字é🚀", max_size=12))
def test_a_tokenizer_with_byte_fallback_streams_what_it_decodes(prompt: str, text: str) -> None:
    before, after = PIECES.encode(prompt).ids, PIECES.encode(text).ids
    whole, head = PIECES.decode([*before, *after]), PIECES.decode(before)
    assert told(after, before) == whole.removeprefix(head)


def test_a_prompt_that_ends_in_characters_of_several_bytes_puts_nothing_before_the_text() -> None:
    prompt = PIECES.encode("and 漢字語").ids
    assert told(PIECES.encode("語and").ids[1:], prompt) == "語and"


@pytest.mark.parametrize("prompt", ["the\ufffd", "\ufffd", "漢\ufffd\ufffd"])
def test_a_prompt_that_ends_in_the_replacement_character_is_not_repeated(prompt: str) -> None:
    assert told(PIECES.encode("and the").ids, PIECES.encode(prompt).ids) == " and the"
    assert (
        "".join(
            t.text
            for t in TextStream(TOKENIZER, ids_of(prompt)).tokens(Emitted(i, "bonus", None) for i in ids_of(" and"))
        )
        == " and"
    )


@given(st.lists(st.integers(0, PIECES.get_vocab_size() - 1), max_size=40))
def test_no_ids_however_wild_end_a_stream_of_byte_fallback(ids: list[int]) -> None:
    shown = told(ids, PIECES.encode("the").ids)
    pieces = [PIECES.id_to_token(i) for i in ids]
    letters = [c for piece in pieces if not piece.startswith("<") for c in piece if c != "▁"]
    rest = iter(shown)
    assert all(letter in rest for letter in letters), "text around the invalid bytes was lost"


def test_after_invalid_bytes_the_text_goes_on() -> None:
    invalid = [PIECES.token_to_id("<0xFF>")] * 20
    shown = told([*PIECES.encode("the").ids, *invalid, *PIECES.encode("漢 and").ids])
    assert shown.startswith("the\ufffd") and shown.endswith("漢 and")


def test_a_stop_string_that_is_a_special_token_ends_the_text_at_it() -> None:
    end = TOKENIZER.token_to_id("</s>")
    whole = TextStream(TOKENIZER, PROMPT, ("</s>",))
    ids = [*ids_of("the"), end, *ids_of("and")]
    assert "".join(t.text for t in whole.tokens(Emitted(i, "bonus", None) for i in ids)) == "the"
    assert whole.stopped


def ids_of(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


@given(TEXTS.filter(lambda t: not t.endswith("�")))
def test_the_texts_of_the_tokens_concatenate_to_the_decoded_text(text: str) -> None:
    tokens = stream(ids_of(text))
    assert "".join(t.text for t in tokens) == TOKENIZER.decode(ids_of(text)) == text
    assert [t.id for t in tokens] == ids_of(text)


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=24))
def test_ids_that_are_no_valid_text_lose_at_most_the_unfinished_end(ids: list[int]) -> None:
    shown = "".join(t.text for t in stream(ids))
    # What follows is the space of a token that ends inside a character, and that character's first bytes.
    whole = TOKENIZER.decode(PROMPT + ids).removeprefix(TOKENIZER.decode(PROMPT))
    assert whole.startswith(shown)
    rest = whole[len(shown) :]
    assert rest.endswith("�") or not rest


def test_a_character_over_several_ids_comes_whole_with_the_id_that_completes_it() -> None:
    ids = ids_of("a🚀b")
    assert len(ids) == 6, "the rocket should take four ids here"
    assert [t.text for t in stream(ids)] == ["a", "", "", "", "🚀", "b"]


def test_special_tokens_add_no_text() -> None:
    end = TOKENIZER.token_to_id("</s>")
    assert [t.text for t in stream([*ids_of("a"), end])] == ["a", ""]


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("the end and more", ("end",), "the "),
        ("and the end", ("the end",), "and "),
        ("one STOP two", ("STOP", "two"), "one "),
        ("one two", ("two", "one two"), ""),
        ("aaab", ("aab",), "a"),
        ("ababac", ("abac",), "ab"),
        ("go 🚀 now", ("🚀",), "go "),
        ("x\n\ny", ("\n\n",), "x"),
        ("stop", ("stop",), ""),
    ],
)
def test_the_text_ends_before_the_first_stop_string(text: str, stop: tuple[str, ...], wanted: str) -> None:
    whole = TextStream(TOKENIZER, PROMPT, stop)
    tokens = list(whole.tokens(Emitted(i, "bonus", None) for i in ids_of(text)))
    assert "".join(t.text for t in tokens) == wanted
    assert whole.stopped


@given(
    text=TEXTS.filter(lambda t: not t.endswith("�")),
    stop=st.lists(st.text("the\n🚀é", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_strings_cut_as_a_search_of_the_whole_text_would(text: str, stop: list[str]) -> None:
    whole = TextStream(TOKENIZER, PROMPT, stop)
    shown = "".join(t.text for t in whole.tokens(Emitted(i, "bonus", None) for i in ids_of(text)))
    cuts = [text.find(s) for s in stop if s in text]
    assert whole.stopped == bool(cuts)
    if not cuts:
        assert shown == text
    else:
        # The first string to be complete ends the text; an earlier beginning may only be complete later.
        ends = min(text.find(s) + len(s) for s in stop if s in text)
        assert text.startswith(shown)
        assert len(shown) < ends
        assert not any(s in shown for s in stop)


def test_text_that_may_begin_a_stop_string_is_held_back_until_it_is_decided() -> None:
    whole = TextStream(TOKENIZER, PROMPT, ("xyz",))
    pulled: list[str] = []

    def source() -> object:
        for character in "axyxb":
            pulled.append(character)
            yield Emitted(ids_of(character)[0], "bonus", None)

    shown = []
    for token in whole.tokens(source()):  # type: ignore[arg-type]
        shown.append((token.text, len(pulled)))
    # "a" is shown at once, "x" and "y" only when the second "x" rules the stop string out, that "x" with "b".
    assert shown == [("a", 1), ("x", 4), ("y", 4), ("x", 5), ("b", 5)]


def test_no_more_tokens_are_asked_for_after_a_stop_string() -> None:
    asked = []

    def source() -> object:
        for i in ids_of("no more of this"):
            asked.append(i)
            yield Emitted(i, "bonus", None)

    list(TextStream(TOKENIZER, PROMPT, ("more",)).tokens(source()))  # type: ignore[arg-type]
    assert TOKENIZER.decode(asked) == "no more"


def test_without_stop_strings_every_token_is_shown_at_once() -> None:
    count = 0

    def source() -> object:
        nonlocal count
        for i in ids_of("the land"):
            count += 1
            yield Emitted(i, "bonus", None)

    for place, _ in enumerate(TextStream(TOKENIZER, PROMPT).tokens(source()), 1):  # type: ignore[arg-type]
        assert count == place


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="stop string is empty"):
        TextStream(TOKENIZER, PROMPT, ("",))
