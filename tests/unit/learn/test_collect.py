"""Collected rows: right, batched, resumable."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as tensors_to_bytes
from tiny_models import FAMILIES, save_model

from sprinter.build import Pair, build_engine
from sprinter.config import DecodingConfig
from sprinter.core.sampling import Dice, Sampling, acceptance, log_softmax
from sprinter.errors import ConfigError, DataError
from sprinter.gates.verifier import load_verifier
from sprinter.learn.batched import BatchModel, OneByOne
from sprinter.learn.collect import CollectSettings, CollectSource, collect
from sprinter.learn.prompts import Prompt, read_prompts
from sprinter.learn.rows import Rows, load_rows
from sprinter.learn.texts import TextSettings, TextStore
from sprinter.models.hf import HFModel
from sprinter.observers.audit import Audit

SETTINGS = CollectSettings(tokens=6, transforms=(Sampling(), Sampling(0.0), Sampling(0.7, top_p=0.9)), batch=8)


@pytest.fixture(scope="module")
def source(tiny_pair: Pair) -> CollectSource:
    return CollectSource.of(tiny_pair)


@pytest.fixture(scope="module")
def prompts(prompts_file: Path) -> list[Prompt]:
    return read_prompts([prompts_file])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_padding_changes_no_hidden_state(family: str, tmp_path: Path) -> None:
    model = HFModel.load(save_model(tmp_path / family, family, 3))
    sequences = [[5, 7, 9, 11, 2, 4, 6, 8, 1, 3], [8], [1, 2, 3]]
    batch = BatchModel(model)
    got = [batch.begin(sequences), *[tuple(p[:, None] for p in batch.step([t, t + 1, t + 2])) for t in (10, 20)]]
    for row, sequence in enumerate(sequences):
        whole = [*sequence, 10 + row, 20 + row]
        for step, (logits, hidden) in enumerate(got):
            alone = model.forward(whole[: len(sequence) + step], 1)
            assert alone.hidden is not None
            np.testing.assert_allclose(hidden[row, 0], alone.hidden[0], rtol=1e-4, atol=2e-5)
            np.testing.assert_allclose(logits[row, 0], alone.logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", ["draft", "exact", "paper"])
def test_batching_changes_no_row(policy: str, source: CollectSource, prompts: list[Prompt], tmp_path: Path) -> None:
    tables = []
    for batch in (1, 8):
        settings = CollectSettings(policy, 6, SETTINGS.transforms, batch)  # type: ignore[arg-type]
        collect(source, prompts[:10], tmp_path / str(batch), settings)
        tables.append(load_rows([tmp_path / str(batch)]))
    one, many = ({_key(rows, i): rows.labels[i] for i in range(len(rows))} for rows in tables)
    assert one.keys() == many.keys()
    for key, labels in one.items():
        np.testing.assert_allclose(labels, many[key], atol=1e-4)


def _key(rows: Rows, place: int) -> tuple[object, ...]:
    names = (rows.step[place], rows.transform[place], rows.token[place])
    return (rows.titles[rows.prompt[place]], *map(int, names))


def test_labels_are_what_the_two_models_say(
    source: CollectSource, tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path
) -> None:
    collect(source, prompts[:4], tmp_path, SETTINGS)
    rows = load_rows([tmp_path])
    texts = {p.title: tiny_pair.tokenizer.encode(p.text) for p in prompts}
    written: dict[tuple[int, int], int] = {}  # (prompt, step) -> the token that went on
    for place in range(len(rows)):
        if rows.transform[place] == 0:
            written[int(rows.prompt[place]), int(rows.step[place])] = int(rows.token[place])
    for place in range(len(rows)):
        prompt, step, token = int(rows.prompt[place]), int(rows.step[place]), int(rows.token[place])
        context = texts[rows.titles[prompt]] + [written[prompt, i] for i in range(step)]
        drafted, judged = (m.forward(context, 1) for m in (tiny_pair.draft, tiny_pair.target))
        sampling = SETTINGS.transforms[rows.transform[place]]
        p, q = sampling.law(judged.logits[0], context), sampling.law(drafted.logits[0], context)
        assert rows.label("accept")[place] == pytest.approx(acceptance(token, p, q), abs=1e-4)
        overlap = np.minimum(p.dense(60), q.dense(60)).sum()
        assert rows.label("overlap")[place] == pytest.approx(overlap, abs=1e-4)
        log_p, log_q = log_softmax(judged.logits[0]), log_softmax(drafted.logits[0])
        if abs(log_p[token] - log_q[token]) > 1e-3:
            assert rows.label("accept_hard")[place] == float(log_q[token] <= log_p[token])
        floor = min(0.09, 0.3 * np.exp(np.sum(np.exp(log_p) * log_p)))
        if abs(np.exp(log_p[token]) - floor) > 1e-4:
            assert rows.label("typical")[place] == float(np.exp(log_p[token]) > floor)
        np.testing.assert_allclose(rows.hidden[rows.context[place]], drafted.hidden[0], atol=2e-2)
        np.testing.assert_allclose(
            rows.embedding[rows.embedding_of[place]], tiny_pair.draft.embedding(token), rtol=1e-3, atol=1e-3
        )


def test_paper_contexts_follow_the_draft_after_one_and_the_target_after_zero(
    source: CollectSource, tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path
) -> None:
    settings = CollectSettings("paper", 6, (Sampling(0.0),), 4)
    collect(source, prompts[:4], tmp_path, settings)
    rows = load_rows([tmp_path])
    texts = {p.title: tiny_pair.tokenizer.encode(p.text) for p in prompts}
    for number, title in enumerate(rows.titles):
        context = list(texts[title])
        for place in np.flatnonzero(rows.prompt == number):
            drafted, judged = (m.forward(context, 1).logits[0] for m in (tiny_pair.draft, tiny_pair.target))
            assert rows.token[place] == drafted.argmax()
            context.append(int(drafted.argmax() if rows.label("accept_hard")[place] else judged.argmax()))


_CHILD = """
import sys, time
from pathlib import Path
from sprinter.build import Pair
from sprinter.config import ModelConfig
from sprinter.core.sampling import Sampling
from sprinter.learn import collect as module
from sprinter.learn.prompts import read_prompts
target, draft, data, out, slow = sys.argv[1:]
pair = Pair(ModelConfig(target=target, draft=draft, verifier="none", backend="hf"))
settings = module.CollectSettings(tokens=6, transforms=(Sampling(), Sampling(0.0), Sampling(0.7, top_p=0.9)), batch=8)
pause = lambda done, total: (print(done, flush=True), time.sleep(float(slow)))
module.collect(module.CollectSource.of(pair), read_prompts([Path(data)]), Path(out), settings, None, pause)
"""


def test_a_killed_collection_goes_on_without_losing_or_repeating_a_prompt(
    source: CollectSource, tiny_folders: tuple[Path, Path], prompts: list[Prompt], prompts_file: Path, tmp_path: Path
) -> None:
    target, draft = map(str, tiny_folders)
    out, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", _CHILD, target, draft, str(prompts_file), str(out), "30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "8"
        child.send_signal(signal.SIGKILL)
    first = next(out.glob("rows-*.safetensors"))
    written_at = first.stat().st_mtime_ns
    # What a kill in the middle of a write leaves behind.
    (out / "rows-00001.part").write_bytes(b"half")
    with pytest.raises(DataError, match="unfinished"):
        load_rows([out])
    time.sleep(0.01)
    collect(source, prompts, out, SETTINGS)
    collect(source, prompts, whole, SETTINGS)
    assert first.stat().st_mtime_ns == written_at
    resumed, straight = load_rows([out]), load_rows([whole])
    assert sorted(resumed.titles) == sorted(p.title for p in prompts)
    assert resumed.titles == straight.titles
    assert (resumed.token == straight.token).all()
    np.testing.assert_allclose(resumed.labels, straight.labels, atol=1e-4)


def test_a_folder_of_other_settings_is_refused_by_name(
    source: CollectSource, prompts: list[Prompt], tmp_path: Path
) -> None:
    collect(source, prompts[:3], tmp_path, SETTINGS)
    with pytest.raises(DataError, match="another tokens"):
        collect(source, prompts[:3], tmp_path, CollectSettings(tokens=5, transforms=SETTINGS.transforms, batch=8))
    with pytest.raises(DataError, match="another prompts_sha256"):
        collect(source, prompts[:4], tmp_path, SETTINGS)


def test_a_damaged_shard_is_one_clear_error(source: CollectSource, prompts: list[Prompt], tmp_path: Path) -> None:
    collect(source, prompts[:3], tmp_path, SETTINGS)
    shard = tmp_path / "rows-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"rows-00000\.safetensors is damaged"):
        load_rows([tmp_path])


def test_policy_sprinter_needs_a_verifier(source: CollectSource, prompts: list[Prompt], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a verifier"):
        collect(source, prompts, tmp_path, CollectSettings("sprinter"))


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"text": "a b c"}) + "\n\n{broken\n")
    with pytest.raises(DataError, match="line 3 is not JSON"):
        read_prompts([file])
    file.write_text(json.dumps({"text": "a b c"}) + "\n" + json.dumps({"text": ""}))
    with pytest.raises(DataError, match="line 2 has neither"):
        read_prompts([file])
    with pytest.raises(DataError, match="cannot read"):
        read_prompts([tmp_path / "none.jsonl"])


def test_a_prompt_is_the_first_30_percent_of_a_text_or_the_prompt_itself(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    text = " ".join(str(n) for n in range(10))
    file.write_text("\n".join(json.dumps(r) for r in ({"title": "a", "text": text}, {"prompt": "one two"})))
    first, second = read_prompts([file])
    assert (first.title, first.text, first.reference) == ("a", "0 1 2", "3 4 5 6 7 8 9")
    assert (second.text, second.reference) == ("one two", "")


def test_exact_contexts_are_the_targets_own_text_and_serve_another_draft(
    source: CollectSource, tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path
) -> None:
    settings = CollectSettings("exact", 6, (Sampling(0.0), Sampling()), 4)
    kept = tmp_path / "texts"
    collect(source, prompts[:4], tmp_path / "a", settings, texts=kept)
    stamps = {f: f.stat().st_mtime_ns for f in kept.iterdir()}
    rows = load_rows([tmp_path / "a"])
    texts = {p.title: tiny_pair.tokenizer.encode(p.text) for p in prompts}
    for number, title in enumerate(rows.titles):
        context = list(texts[title])
        for place in np.flatnonzero((rows.prompt == number) & (rows.transform == 0)):
            drafted, judged = (m.forward(context, 1).logits[0] for m in (tiny_pair.draft, tiny_pair.target))
            assert rows.token[place] == drafted.argmax()
            assert rows.label("accept")[place] == float(drafted.argmax() == judged.argmax())
            context.append(int(judged.argmax()))
    # The target as its own draft: everything is accepted, and no text is written again.
    alone = CollectSource(source.target, source.target, source.encode, source.vocab_size, source.eos_ids)
    collect(alone, prompts[:4], tmp_path / "b", settings, texts=kept)
    assert load_rows([tmp_path / "b"]).label("accept").min() == pytest.approx(1.0, abs=1e-4)
    assert {f: f.stat().st_mtime_ns for f in kept.iterdir()} == stamps
    with pytest.raises(DataError, match="another num_tokens"):
        collect(source, prompts[:4], tmp_path / "c", CollectSettings("exact", 5, settings.transforms, 4), texts=kept)


def test_the_sprinter_policy_visits_what_the_gate_leads_to(
    source: CollectSource, tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path
) -> None:
    folder = tmp_path / "verifier"
    names = ("hidden", "embedding")
    weights = np.random.default_rng(0).normal(size=(1, 32)).astype(np.float32)
    data = tensors_to_bytes({"0.weight": weights, "0.bias": np.zeros(1, np.float32)})
    folder.mkdir()
    (folder / "verifier.safetensors").write_bytes(data)
    described = {
        "format": 1,
        "features": names,
        "outputs": ["accept"],
        "num_layers": 1,
        "draft_fingerprint": tiny_pair.draft.info.fingerprint,
        "target_fingerprint": tiny_pair.target.info.fingerprint,
        "transforms": [],
        "default_threshold": 0.5,
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    (folder / "verifier.json").write_text(json.dumps(described))
    verifier = load_verifier(folder)
    settings = CollectSettings("sprinter", 6, (Sampling(0.0),), 4)
    collect(source, prompts[:4], tmp_path / "rows", settings, verifier)
    rows = load_rows([tmp_path / "rows"])
    texts = {p.title: tiny_pair.tokenizer.encode(p.text) for p in prompts}
    scores = verifier.score_batch(rows.inputs(names, np.arange(len(rows))))
    for number, title in enumerate(rows.titles):
        config = DecodingConfig(threshold=0.5)
        engine = build_engine(Pair(replace(tiny_pair.config, verifier=str(folder))), config, Sampling(0.0))
        run = engine.start(texts[title], 6, Dice(np.random.default_rng(0)), Audit())
        written = [(e.id, e.origin) for e in run]
        places = np.flatnonzero(rows.prompt == number)
        # Every token but a bonus stands where the collection judged one; what was vouched for was kept.
        assert [s for s, (_, o) in enumerate(written) if o != "bonus"] == rows.step[places].tolist()
        for place in places:
            token, origin = written[rows.step[place]]
            assert (origin == "vouched") == (scores[place] >= 0.5)
            assert (token == rows.token[place]) == (origin in ("vouched", "tested"))


def test_any_backend_can_stand_where_a_batch_is_expected(
    source: CollectSource, tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path
) -> None:
    single = CollectSource(OneByOne(tiny_pair.draft), source.target, source.encode, source.vocab_size, source.eos_ids)
    for policy in ("exact", "draft"):
        settings = CollectSettings(policy, 4, (Sampling(0.0),), 4)  # type: ignore[arg-type]
        tables = []
        for name, one in (("batched", source), ("single", single)):
            collect(one, prompts[:4], tmp_path / policy / name, settings)
            tables.append(load_rows([tmp_path / policy / name]))
        assert (tables[0].token == tables[1].token).all()
        np.testing.assert_allclose(tables[0].labels, tables[1].labels, atol=1e-4)
        np.testing.assert_allclose(tables[0].scalars, tables[1].scalars, atol=1e-3)


def test_a_backend_writes_the_text_a_batch_writes(
    source: CollectSource, tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path
) -> None:
    how = TextSettings(Sampling(0.0), 5, 0, source.vocab_size, source.eos_ids)
    ids, encoded = [p.id for p in prompts[:3]], [tiny_pair.tokenizer.encode(p.text) for p in prompts[:3]]
    side_by_side = TextStore(tmp_path / "a", source.target, how).texts(ids, encoded)
    alone = TextStore(tmp_path / "b", tiny_pair.target, how).texts(ids, encoded)
    for one, other in zip(side_by_side, alone, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.hidden, other.hidden, rtol=1e-4, atol=1e-4)
