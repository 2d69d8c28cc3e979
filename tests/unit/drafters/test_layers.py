"""Drafting with the target less some blocks: exact whatever is left out, the target untouched, the search fair."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from sprinter.config import DecodingConfig
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.sampling import Sampling
from sprinter.core.text import Limits, Text
from sprinter.drafters.blocks import WINDOW, Means, Memory, Search, matchness, num_blocks, spread
from sprinter.drafters.layers import LayerChainDrafter, LayerDrafter, ThinDrafter
from sprinter.drafters.siblings import SiblingDrafter
from sprinter.engine import Engine
from sprinter.errors import BackendError, ConfigError
from sprinter.gates.fixed import FixedGate, OnceGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.models.fast.model import FastModel
from sprinter.models.toy import ToyModel
from sprinter.rules.exact import ExactRule
from tests.parity.test_fast_vs_hf import VOCAB, save_reference
from tests.support.enumeration import distance, law_at, model_law, output_law
from tests.unit.test_exact_law import HashScorer

ALL = frozenset(range(2, 10))  # every block between the first and the last of six layers


def toy(vocab_size: int, seed: int, order: int = 2) -> ToyModel:
    return ToyModel.random(vocab_size, seed, order, num_layers=6)


def run(target: ToyModel, recipe: Recipe, text: Text) -> Text:
    engine = Engine(target)
    engine.run([engine.begin(text, recipe)])
    return text


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.6, top_p=0.8), Sampling(1.5)], ids=str)
def test_a_chain_with_siblings_has_the_target_s_joint_law(sampling: Sampling) -> None:
    """Side siblings accepted, then the next token, are among the outcomes."""
    target = ToyModel.random(3, 5)
    taken: set[tuple[int, ...]] = set()

    class Watching(ExactRule):
        def judge(self, text, reading):  # type: ignore[no-untyped-def]
            verdict = super().judge(text, reading)
            taken.add(tuple(verdict.path))
            return verdict

    law = output_law(
        (target, target.near(6)), OnceGate, Watching(), sampling, 2, drafter=lambda d: SiblingDrafter(d, 2, 0.0)
    )
    assert distance(law, model_law(target, sampling, 2)) < 1e-9
    assert (1,) in taken
    assert any(len(path) == 2 for path in taken)


@pytest.mark.parametrize("blocks", [frozenset({4}), frozenset({2, 5}), ALL], ids=len)
def test_leaving_blocks_out_keeps_the_target_s_joint_law(blocks: frozenset[int]) -> None:
    target = toy(3, 1, order=1)
    law = output_law((target, target), OnceGate, ExactRule(), Sampling(), 2, drafter=lambda t: LayerDrafter(t, blocks))
    assert distance(law, model_law(target, Sampling(), 2)) < 1e-9


@pytest.mark.parametrize("eos", [-1, 0, 3])
@pytest.mark.parametrize("blocks", [frozenset({3}), frozenset({2, 6, 9}), ALL], ids=len)
def test_greedy_text_is_the_target_s_whatever_is_left_out_and_searched(blocks: frozenset[int], eos: int) -> None:
    for seed in range(4):
        target = toy(7, seed)
        limits = Limits(7, 71, frozenset({eos}))
        plain, thin = (Text([1, seed], 90, Sampling(0.0), Chance(0), limits) for _ in range(2))
        run(target, Recipe(FixedGate(0), ExactRule()), plain)
        run(target, Recipe(OnceGate(), ExactRule(), LayerDrafter(target, blocks, tries=1000)), thin)
        assert [e.id for e in thin.out] == [e.id for e in plain.out]
        assert thin.finish_reason == plain.finish_reason
        assert thin.counters.target_calls < plain.counters.target_calls


def test_a_draft_that_leaves_out_nothing_of_note_stands_to_its_end() -> None:
    target = toy(6, 2)
    text = Text([1], 40, Sampling(1.0), Chance(3), Limits(6, 64))
    run(target, Recipe(OnceGate(), ExactRule(), SiblingDrafter(target, 4, 0.0)), text)
    assert [e.origin for e in text.out] == (["tested"] * 4 + ["bonus"]) * 8


def test_tokens_that_stand_are_not_read_again() -> None:
    target = toy(6, 2)
    text = Text([1, 2, 3], 40, Sampling(1.0), Chance(3), Limits(6, 64))
    run(target, Recipe(OnceGate(), ExactRule(), SiblingDrafter(target, 4, 0.0)), text)
    # Of a round's five tokens the chain's last and the bonus are read when the next round begins.
    assert text.counters.draft_tokens == 3 + 3 + 7 * 5


@pytest.mark.parametrize(
    ("confidence", "greedy", "width"),
    [(0.99, True, 3), (0.9, True, 5), (0.6, True, 8), (0.3, True, 10), (0.99, False, 1), (0.9, False, 3)],
)
def test_the_surer_the_drafter_the_fewer_siblings(confidence: float, greedy: bool, width: int) -> None:
    probs = np.full(20, (1 - confidence) / 19)
    probs[4] = confidence
    draft = ToyModel(lambda context: np.log(probs), 20)
    text = Text([1], 9, Sampling(0.0 if greedy else 1.0), Chance(11), Limits(20, 30))
    SiblingDrafter(draft, 1).grow([text])
    assert text.tree.tokens[0] == 4
    assert len(set(text.tree.tokens)) == len(text.tree) == width
    assert text.tree.parents == [-1] * width


def test_there_are_no_more_siblings_than_tokens_to_draw() -> None:
    draft = ToyModel(lambda context: np.log(np.full(20, 0.05)), 20)
    text = Text([1], 9, Sampling(1.0, top_k=0, top_p=0.2), Chance(1), Limits(20, 30))
    SiblingDrafter(draft, 1).grow([text])
    assert len(set(text.tree.tokens)) == len(text.tree) < 10


@pytest.mark.parametrize("method", ["layers", "chain"])
def test_drafting_and_searching_leave_the_target_s_cache_as_it_was(method: str, tmp_path: Path) -> None:
    save_reference(tmp_path, "llama", num_hidden_layers=6)
    target = FastModel.load(tmp_path, "float32")
    checks = 0

    def unchanged(text: Text, do: Callable[[], None]) -> None:
        nonlocal checks
        cache = text.cache
        before = None if cache is None else (cache.length, cache.kv[..., : cache.length, :].clone())  # type: ignore[attr-defined]
        do()
        if cache is not None and before is not None:
            assert cache.length == before[0]
            assert (cache.kv[..., : cache.length, :] == before[1]).all()  # type: ignore[attr-defined]
            checks += 1

    kind: type[ThinDrafter] = LayerDrafter if method == "layers" else LayerChainDrafter

    class Watched(kind):  # type: ignore[misc, valid-type]
        def grow(self, texts: Sequence[Text]) -> None:
            unchanged(texts[0], lambda: super(Watched, self).grow(texts))

        def learn(self, text, verdict, reading) -> None:  # type: ignore[no-untyped-def]
            unchanged(text, lambda: super(Watched, self).learn(text, verdict, reading))

    gate, rule = (OnceGate(), ExactRule()) if method == "layers" else (FixedGate(3), ExactRule())
    text = Text([3, 1, 4], 60, Sampling(0.0), Chance(0), Limits(VOCAB, 128))
    engine = Engine(target)
    engine.run([engine.begin(text, Recipe(gate, rule, Watched(target, frozenset({3, 6}), tries=20)))])
    assert checks > 20
    assert text.counters.draft_tokens > 20 * WINDOW


@pytest.mark.parametrize("threshold", [0.2, 0.6])
def test_the_one_step_error_of_vouching_for_such_a_draft_is_delta(threshold: float) -> None:
    target = toy(4, 9, order=1)
    blocks, scorer, sampling = frozenset({2, 3, 7}), HashScorer(4), Sampling()
    law = output_law(
        (target, target),
        lambda: ThresholdGate(scorer, threshold, max_draft=1),
        ExactRule(),
        sampling,
        1,
        drafter=lambda t: LayerChainDrafter(t, blocks),
    )
    p, q = law_at(target, sampling, [0]), law_at(target.without(blocks), sampling, [0])
    vouched = [token for token in range(4) if scorer.of([token]) >= threshold]
    delta = sum(max(0.0, q.prob(token) - p.prob(token)) for token in vouched)
    assert distance(law, model_law(target, sampling, 1)) == pytest.approx(delta, abs=1e-9)
    assert delta > 0


def test_a_search_tries_blocks_alone_and_takes_the_least_missed_where_they_are_better(tmp_path: Path) -> None:
    target = toy(5, 3)
    text = Text([1], 60, Sampling(0.0), Chance(0), Limits(5, 64))
    tokens = run(target, Recipe(FixedGate(0), ExactRule()), text).tokens
    alone = {block: matchness(target.without({block}), tokens, 1) for block in ALL}
    least_missed = frozenset(sorted(ALL, key=lambda block: (-alone[block], block))[:3])
    worst = frozenset(sorted(ALL, key=lambda block: alone[block])[:3])
    memory = Memory(tmp_path, target.info)
    search = Search(worst, memory.recall(), memory)
    assert not search.step(target, tokens, 1)
    first = search.score
    assert first == matchness(target.without(worst), tokens, 1)
    assert not any(search.step(target, tokens, 1) for _ in ALL)  # no set before every block was tried
    assert search.step(target, tokens, 1)
    assert search.best == least_missed
    assert search.score == matchness(target.without(least_missed), tokens, 1) > first
    assert not any(search.step(target, tokens, 1) for _ in range(20))
    assert memory.recall().best(3) == least_missed


def test_a_set_that_is_no_better_on_the_text_at_hand_is_not_taken() -> None:
    target = toy(5, 3)
    text = Text([1], 60, Sampling(0.0), Chance(0), Limits(5, 64))
    tokens = run(target, Recipe(FixedGate(0), ExactRule()), text).tokens
    sets = [frozenset(blocks) for blocks in itertools.combinations(sorted(ALL), 2)]
    best, worst = (pick(sets, key=lambda b: matchness(target.without(b), tokens, 1)) for pick in (max, min))
    known = Means(target.info, {block: (float(block in worst), 1) for block in ALL})
    assert known.best(2) == worst
    search = Search(best, known)
    assert not any(search.step(target, tokens, 1) for _ in range(2))
    assert search.best == best


def test_matchness_by_hand() -> None:
    target = toy(5, 3)
    tokens = [1, 2, *np.random.default_rng(0).integers(0, 5, WINDOW).tolist(), 4]
    said = [int(np.argmax(target._logits_of(tuple(tokens[:place])))) for place in range(2, 2 + WINDOW)]
    assert matchness(target, tokens, 2) == np.mean(np.equal(said, tokens[2 : 2 + WINDOW]))


def test_the_first_set_is_spread_over_the_layers() -> None:
    info = ToyModel.random(3, 1, num_layers=30).info
    assert num_blocks(info, 0.1) == 5
    assert sorted(spread(info, 5)) == [7, 18, 30, 41, 52]
    for count in range(51):
        blocks = spread(info, count)
        assert len(blocks) == count
        assert blocks <= set(range(2, 58))


def test_what_was_found_is_remembered(tmp_path: Path) -> None:
    info = toy(3, 1).info
    for block in sorted(ALL)[:-1]:
        Memory(tmp_path, info).note(block, 0.5 + block / 100)
    assert Memory(tmp_path, info).recall().best(2) is None
    assert Memory(tmp_path, info).recall().next(()) == 9
    Memory(tmp_path, info).note(9, 0.0)
    assert Memory(tmp_path, info).recall().best(2) == {7, 8}
    for _ in range(2):
        Memory(tmp_path, info).note(9, 1.0)
    assert Memory(tmp_path, info).recall().best(2) == {8, 9}
    assert Memory(tmp_path, ToyModel.random(3, 7, num_layers=6).info).recall().best(1) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"tried": {"2": 1}}',
        '{"tried": {"10": [1, 1]}}',
        '{"tried": {"-2": [1, 1]}}',
        '{"tried": {"2": [3, 1]}}',
    ],
)
def test_a_damaged_memory_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    memory = Memory(tmp_path, toy(3, 1).info)
    memory.note(2, 1.0)
    (file,) = (tmp_path / "blocks").iterdir()
    file.write_text(content)
    with pytest.raises(BackendError, match="delete it, and the blocks are searched for anew") as raised:
        memory.recall()
    assert "\n" not in str(raised.value)


def test_where_nothing_can_be_written_the_search_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    memory = Memory(tmp_path / "file", toy(3, 1).info)
    memory.note(2, 1.0)
    assert memory.recall().next(()) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"skip_share": 0.0}, "above 0"),
        ({"skip_share": 0.95}, "at most 0.9"),
        ({"skip_search": -1}, "0 \\(no search\\) or more"),
        ({"confidence_floor": 1.5}, "between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DecodingConfig(method="swift", **change)  # type: ignore[arg-type]


def test_a_model_of_two_layers_has_no_block_to_leave_out() -> None:
    class Kit:
        target = ToyModel.random(3, 1, num_layers=2)

    config = DecodingConfig(method="swift")
    with pytest.raises(ConfigError, match="it has 2 layers"):
        LayerDrafter.build(config, Kit())  # type: ignore[arg-type]
