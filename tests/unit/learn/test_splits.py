"""Splits by entry."""

from __future__ import annotations

import pytest

from sprinter.learn import splits

EXPECTED = {"concentrator": 9, "listless": 5, "logical shift": 8}


def test_buckets_do_not_change_between_versions() -> None:
    assert {title: splits.bucket(title) for title in EXPECTED} == EXPECTED


def test_every_bucket_has_one_use() -> None:
    uses = [splits.DRAFT_BUCKETS, splits.VERIFIER_BUCKETS, splits.CALIBRATION_BUCKETS, splits.TEST_BUCKETS]
    assert sorted(b for use in uses for b in use) == list(range(splits.NUM_BUCKETS))


def test_no_prompt_is_on_both_sides_and_none_is_lost() -> None:
    ids = [f"prompt {i}" for i in range(1000)]
    train, held_out = splits.split_by_prompt(ids, 0.2)
    assert not train & held_out
    assert train | held_out == set(ids)
    assert 150 < len(held_out) < 250


def test_a_prompts_side_does_not_depend_on_the_others() -> None:
    some = splits.split_by_prompt([f"prompt {i}" for i in range(10)])[1]
    more = splits.split_by_prompt([f"prompt {i}" for i in range(100)])[1]
    assert some <= more


def test_a_share_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="held_out_share"):
        splits.split_by_prompt(["a"], 1.0)


def test_a_prompt_is_the_first_third_of_the_words_at_most_sixty() -> None:
    assert splits.prompt_of("a b c d e f g h i j") == ("a b c", "d e f g h i j")
    assert len(splits.prompt_of("w " * 999)[0].split(" ")) == splits.PROMPT_MAX_WORDS
    assert splits.prompt_of("one")[0] == "one"
