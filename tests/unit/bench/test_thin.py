"""Whether a target that leaves out blocks can draft for itself: matches counted, costs put to the cost model."""

from __future__ import annotations

import pytest

from sprinter.bench.thin import SubLayers, greedy_texts, thin_drafts, time_blocks
from sprinter.core.text import Limits
from sprinter.drafters.blocks import Means, matchness, spread
from sprinter.models.toy import ToyModel
from sprinter.theory.costs import Costs, WidthCost

FLAT = Costs(draft_s=1.0, verifier_s=0.0, target_s=WidthCost((1, 17), (1.0, 1.0)))


def test_matches_and_costs_are_put_to_the_cost_model() -> None:
    target = ToyModel.random(6, 3, num_layers=12)
    texts = greedy_texts(target, [[1], [2], [3]], Limits(6, 64))
    thin = thin_drafts(target, texts, SubLayers(0.02, 0.06), FLAT, Means(target.info))
    assert [t.share for t in thin] == [0.1, 0.3, 0.5]
    half = spread(target.info, 10)
    assert thin[2].cost == pytest.approx(1 - sum(0.02 if block % 2 == 0 else 0.06 for block in half))
    views = [matchness(target.without(half), tokens, start) for tokens, start in texts]
    assert thin[2].matched == pytest.approx(sum(views) / len(views))
    for t in thin:
        # Whatever passes costs nothing here, so it gains as soon as one draft and one call bring more than two tokens.
        assert t.needed is not None
        assert (t.speedup > 1) == (t.matched >= t.needed)


def test_where_a_wide_call_costs_what_its_tokens_cost_no_such_draft_can_gain() -> None:
    target = ToyModel.random(6, 3, num_layers=12)
    steep = Costs(draft_s=1.0, verifier_s=0.0, target_s=WidthCost((1, 17), (1.0, 17.0)))
    texts = greedy_texts(target, [[1]], Limits(6, 64))
    for t in thin_drafts(target, texts, SubLayers(0.0, 0.0), steep, Means(target.info)):
        assert t.needed is None
        assert t.speedup < 1


def test_what_is_known_to_be_missed_least_is_left_out() -> None:
    target = ToyModel.random(6, 3, num_layers=12)
    known = Means(target.info, {block: (float(block in (4, 9)), 1) for block in range(2, 22)})
    (first, *_) = thin_drafts(target, greedy_texts(target, [[1]], Limits(6, 64)), SubLayers(0.1, 0.2), FLAT, known)
    assert first.cost == pytest.approx(1 - 0.1 - 0.2)


def test_a_text_that_ends_early_tells_nothing() -> None:
    target = ToyModel.random(6, 3, num_layers=4)
    assert greedy_texts(target, [[1]], Limits(6, 64, frozenset(range(6)))) == []


def test_blocks_are_timed() -> None:
    blocks = time_blocks(ToyModel.random(6, 3, num_layers=6), [1, 2])
    assert abs(blocks.attention) < 1 and abs(blocks.mlp) < 1
