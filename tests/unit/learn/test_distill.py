"""`distill` from texts to a usable draft, on a toy target; interrupted runs lose nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from sprinter.errors import BackendError, ConfigError, DataError
from sprinter.learn import corpus, splits
from sprinter.learn.distill import DistillConfig, DistillEvents, distill
from sprinter.learn.trained import unseen
from sprinter.learn.trainer import TrainConfig
from sprinter.models import checkpoint

WORDS = [f"w{i}" for i in range(60)]
SMALL = DistillConfig(
    layers=(0, 3),
    head_tokens=20,
    new_tokens=6,
    rows_per_job=8,
    held_out_entries=6,
    train=TrainConfig(steps=6, batch_rows=2, micro_rows=1, warmup_steps=1, save_every=2, workers=2),
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        num_hidden_layers=4,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,  # a law worth learning: the usual 0.02 is nearly uniform
    )
    tf.LlamaForCausalLM(config).save_pretrained(folder / "target")
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", "<pad>", *WORDS])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder / "target")
    lines = [{"title": f"t{i}", "text": " ".join(WORDS[(i * 7 + j) % 60] for j in range(30))} for i in range(40)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(toy: Path, out: Path, config: DistillConfig = SMALL, **more: Any) -> Any:
    return distill(toy / "target", [toy / "texts.jsonl"], out, config, **more)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    opened = checkpoint.open_checkpoint(folder)
    return {name: opened.tensor(name) for name in opened.names}


def test_a_draft_is_made_and_speaks_only_its_head_tokens(toy: Path, tmp_path: Path) -> None:
    result = run(toy, tmp_path / "draft")
    model, ids = checkpoint.load_torch_draft(tmp_path / "draft", toy / "target")
    assert ids is not None
    assert len(ids) == 20
    assert 2 in ids.tolist()  # the end of text can always be drafted
    assert model.config.num_hidden_layers == 2
    assert 0.0 < result.score.overlap < 1.0
    assert 0.0 < result.head_coverage < 1.0
    learnt = [f"t{i}" for i in range(40) if splits.bucket(f"t{i}") in splits.DRAFT_BUCKETS]
    kept, told = unseen([f"t{i}" for i in range(40)], {"draft": tmp_path / "draft"}, lambda title: [title])
    assert not set(learnt) & set(kept) and len(kept) == 40 - len(learnt) > 0
    assert f"{len(learnt)} of 40 texts trained the draft" in told[0]


def test_an_interrupted_run_ends_like_an_uninterrupted_one(toy: Path, tmp_path: Path) -> None:
    run(toy, tmp_path / "straight")

    def stop_at_3(progress: Any) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    def stop_collecting(part: str, done: int, total: int, tokens: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path / "broken", events=DistillEvents(on_collect=stop_collecting))
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path / "broken", events=DistillEvents(on_step=stop_at_3))
    run(toy, tmp_path / "broken")
    first, second = weights(tmp_path / "straight"), weights(tmp_path / "broken")
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0)


def test_a_further_file_leaves_the_traces_of_the_earlier_ones(toy: Path, tmp_path: Path) -> None:
    lines = [{"title": f"more {i}", "text": " ".join(WORDS[(i * 11 + j) % 60] for j in range(30))} for i in range(30)]
    more = tmp_path / "more.jsonl"
    more.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(toy, tmp_path / "one", work=tmp_path / "one.work")
    distill(toy / "target", [toy / "texts.jsonl", more], tmp_path / "two", SMALL, tmp_path / "two.work")
    for part, grows in (("train", True), ("test", False)):  # the first file fills the held-out part
        first, both = (list(corpus.traces(tmp_path / f"{name}.work" / part)) for name in ("one", "two"))
        assert (len(both) > len(first)) == grows
        for mine, same in zip(first, both, strict=False):
            assert mine.name == same.name
            assert torch.equal(corpus.load_trace(mine).hidden, corpus.load_trace(same).hidden)


def test_a_draft_can_be_trained_further(toy: Path, tmp_path: Path) -> None:
    run(toy, tmp_path / "first")
    still = dataclasses.replace(SMALL.train, steps=1, lr=1e-9, weight_decay=0.0)
    run(toy, tmp_path / "second", dataclasses.replace(SMALL, init=str(tmp_path / "first"), train=still))
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    record = json.loads((tmp_path / "second" / "draft.json").read_text())["record"]
    assert record["config"]["init"] == "first"  # where it lay on this disk is left out
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=1e-2 * float(value.abs().max()))
    with pytest.raises(ConfigError, match="layers"):
        other = dataclasses.replace(SMALL, layers=(0, 1, 3), init=str(tmp_path / "first"))
        run(toy, tmp_path / "third", other)
    with pytest.raises(ConfigError, match="head of 20 tokens"):
        run(toy, tmp_path / "fourth", dataclasses.replace(SMALL, head_tokens=30, init=str(tmp_path / "first")))


def test_reading_texts_works_without_writing(toy: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, new_tokens=0, read_tokens=10, head_tokens=None)
    run(toy, tmp_path / "draft", config)
    assert checkpoint.load_torch_draft(tmp_path / "draft", toy / "target")[1] is None


def test_training_lowers_the_loss(toy: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    config = dataclasses.replace(SMALL, train=dataclasses.replace(SMALL.train, steps=40, lr=5e-3))
    run(toy, tmp_path / "draft", config, events=DistillEvents(on_step=lambda p: losses.append(p.loss)))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_work_folder_of_other_settings_is_refused(toy: Path, tmp_path: Path) -> None:
    run(toy, tmp_path / "draft")
    with pytest.raises(ConfigError, match="begun with another"):
        run(toy, tmp_path / "draft", dataclasses.replace(SMALL, seed=1))


def test_held_out_entries_never_train(toy: Path, tmp_path: Path) -> None:
    run(toy, tmp_path / "draft")
    tokenizer = tf.AutoTokenizer.from_pretrained(toy / "target")
    texts = {e.title: tokenizer(e.text)["input_ids"][:8] for e in corpus.read_entries([toy / "texts.jsonl"])}
    held_out = [ids for title, ids in texts.items() if splits.bucket(title) in splits.TEST_BUCKETS]
    rows = [r.tolist() for f in corpus.traces(tmp_path / "draft.work" / "train") for r in corpus.load_trace(f).tokens]
    assert rows
    assert not any(row[:8] == ids for row in rows for ids in held_out)


def test_a_bad_line_is_named_with_its_number(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(DataError, match="line 2"):
        corpus.read_entries([file])
    file.write_text('{"title": "no text"}\n')
    with pytest.raises(DataError, match="line 1"):
        corpus.read_entries([file])


def test_a_target_with_nan_weights_is_named(toy: Path, tmp_path: Path) -> None:
    model = tf.LlamaForCausalLM.from_pretrained(toy / "target")
    model.model.layers[1].mlp.down_proj.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "bad")
    tf.AutoTokenizer.from_pretrained(toy / "target").save_pretrained(tmp_path / "bad")
    with pytest.raises(BackendError, match="NaN"):
        distill(tmp_path / "bad", [toy / "texts.jsonl"], tmp_path / "draft", SMALL)


@pytest.mark.parametrize(
    "bad",
    [{"layers": 0}, {"head_tokens": 1}, {"new_tokens": -1}, {"temperatures": (-1.0,)}, {"temperatures": ()}],
)
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(SMALL, **bad)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"batch_rows": 3, "micro_rows": 2}, {"lr": 0.0}, {"kl_weight": -1.0}])
def test_impossible_training_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**bad)


def test_the_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, cooldown_share=0.4, lr=1e-3)
    assert config.rate(0) == pytest.approx(1e-4)
    assert config.rate(30) == config.rate(59) == pytest.approx(1e-3)
    assert config.rate(80) == pytest.approx(0.5e-3)
    assert config.rate(100) == 0.0
