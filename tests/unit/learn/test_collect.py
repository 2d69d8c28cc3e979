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

from sprinter.api import Sprinter
from sprinter.build import Pair
from sprinter.core.law import acceptance, log_softmax
from sprinter.core.rows import FloatArray, Model
from sprinter.core.sampling import Sampling
from sprinter.errors import ConfigError, DataError
from sprinter.gates.verifier import load_verifier
from sprinter.learn.collect import CollectSettings, collect, policies
from sprinter.learn.prompts import Prompt, read_prompts
from sprinter.learn.rows import Rows, load_rows
from tests.support.passes import read

SETTINGS = CollectSettings("draft", 6, transforms=(Sampling(), Sampling(0.0), Sampling(0.7, top_p=0.9)), batch=8)


def logits_after(model: Model, context: list[int]) -> FloatArray:
    return read(model, context).logits[0]


@pytest.fixture(scope="module")
def prompts(prompts_file: Path) -> list[Prompt]:
    return read_prompts([prompts_file])


@pytest.mark.parametrize("policy", ["draft", "exact", "paper", "bild"])
def test_batching_changes_no_row(policy: str, tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path) -> None:
    tables = []
    for batch in (1, 8):
        settings = CollectSettings(policy, 6, SETTINGS.transforms, batch)
        collect(tiny_pair, prompts[:10], tmp_path / str(batch), settings)
        tables.append(load_rows([tmp_path / str(batch)]))
    one, many = ({_key(rows, i): rows.labels[i] for i in range(len(rows))} for rows in tables)
    assert one.keys() == many.keys()
    for key, labels in one.items():
        np.testing.assert_allclose(labels, many[key], atol=1e-4)


def _key(rows: Rows, place: int) -> tuple[object, ...]:
    names = (rows.step[place], rows.transform[place], rows.token[place])
    return (rows.titles[rows.prompt[place]], *map(int, names))


def test_labels_are_what_the_two_models_say(tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path) -> None:
    collect(tiny_pair, prompts[:4], tmp_path, SETTINGS)
    rows = load_rows([tmp_path])
    texts = {p.title: tiny_pair.tokenizer.encode(p.text) for p in prompts}
    written: dict[tuple[int, int], int] = {}  # (prompt, step) -> the token that went on
    for place in range(len(rows)):
        if rows.transform[place] == 0:
            written[int(rows.prompt[place]), int(rows.step[place])] = int(rows.token[place])
    for place in range(len(rows)):
        prompt, step, token = int(rows.prompt[place]), int(rows.step[place]), int(rows.token[place])
        context = texts[rows.titles[prompt]] + [written[prompt, i] for i in range(step)]
        drafted, judged = (read(m, context) for m in (tiny_pair.draft, tiny_pair.target))
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
    tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path
) -> None:
    settings = CollectSettings("paper", 6, (Sampling(0.0),), 4)
    collect(tiny_pair, prompts[:4], tmp_path, settings)
    rows = load_rows([tmp_path])
    texts = {p.title: tiny_pair.tokenizer.encode(p.text) for p in prompts}
    for number, title in enumerate(rows.titles):
        context = list(texts[title])
        for place in np.flatnonzero(rows.prompt == number):
            drafted, judged = (logits_after(m, context) for m in (tiny_pair.draft, tiny_pair.target))
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
settings = module.CollectSettings("draft", 6, transforms=(Sampling(), Sampling(0.0), Sampling(0.7, top_p=0.9)), batch=8)
pause = lambda done, total: (print(done, flush=True), time.sleep(float(slow)))
module.collect(pair, read_prompts([Path(data)]), Path(out), settings, None, pause)
"""


def test_a_killed_collection_goes_on_without_losing_or_repeating_a_prompt(
    tiny_pair: Pair, tiny_folders: tuple[Path, Path], prompts: list[Prompt], prompts_file: Path, tmp_path: Path
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
    collect(tiny_pair, prompts, out, SETTINGS)
    collect(tiny_pair, prompts, whole, SETTINGS)
    assert first.stat().st_mtime_ns == written_at
    resumed, straight = load_rows([out]), load_rows([whole])
    assert sorted(resumed.titles) == sorted(p.title for p in prompts)
    assert resumed.titles == straight.titles
    assert (resumed.token == straight.token).all()
    np.testing.assert_allclose(resumed.labels, straight.labels, atol=1e-4)


def test_a_folder_of_other_settings_is_refused_by_name(tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path) -> None:
    collect(tiny_pair, prompts[:3], tmp_path, SETTINGS)
    with pytest.raises(DataError, match="another tokens"):
        collect(tiny_pair, prompts[:3], tmp_path, CollectSettings("draft", 5, SETTINGS.transforms, 8))
    with pytest.raises(DataError, match="another prompts_sha256"):
        collect(tiny_pair, prompts[:4], tmp_path, SETTINGS)


def test_a_damaged_shard_is_one_clear_error(tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path) -> None:
    collect(tiny_pair, prompts[:3], tmp_path, SETTINGS)
    shard = tmp_path / "rows-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"rows-00000\.safetensors is damaged"):
        load_rows([tmp_path])


def test_policy_sprinter_needs_a_verifier(tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a verifier"):
        collect(tiny_pair, prompts, tmp_path, CollectSettings("sprinter"))


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


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"prompt": "one two"}) + "\n", encoding="utf-8-sig")
    assert [p.text for p in read_prompts([file])] == ["one two"]


def test_a_prompt_is_the_first_30_percent_of_a_text_or_the_prompt_itself(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    text = " ".join(str(n) for n in range(10))
    file.write_text("\n".join(json.dumps(r) for r in ({"title": "a", "text": text}, {"prompt": "one two"})))
    first, second = read_prompts([file])
    assert (first.title, first.text, first.reference) == ("a", "0 1 2", "3 4 5 6 7 8 9")
    assert (second.text, second.reference) == ("one two", "")


def test_exact_contexts_are_the_targets_own_text(tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path) -> None:
    settings = CollectSettings("exact", 6, (Sampling(0.0), Sampling()), 4)
    collect(tiny_pair, prompts[:4], tmp_path, settings)
    rows = load_rows([tmp_path])
    texts = {p.title: tiny_pair.tokenizer.encode(p.text) for p in prompts}
    assert set(zip(rows.prompt.tolist(), rows.step.tolist(), strict=True)) == {
        (p, s) for p in range(4) for s in range(6)
    }
    for number, title in enumerate(rows.titles):
        context, since = list(texts[title]), 0
        for place in np.flatnonzero((rows.prompt == number) & (rows.transform == 0)):
            drafted, judged = (logits_after(m, context) for m in (tiny_pair.draft, tiny_pair.target))
            assert rows.token[place] == drafted.argmax()
            assert rows.label("accept")[place] == float(drafted.argmax() == judged.argmax())
            assert rows.scalar("since_target")[place] == pytest.approx(np.log1p(since), rel=1e-6)
            since = since + 1 if drafted.argmax() == judged.argmax() else 0
            context.append(int(judged.argmax()))


def test_the_sprinter_policy_visits_what_the_gate_leads_to(
    tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path
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
    collect(tiny_pair, prompts[:4], tmp_path / "rows", settings, verifier)
    rows = load_rows([tmp_path / "rows"])
    by_title = {p.title: p.text for p in prompts}
    writer = Sprinter(Pair(replace(tiny_pair.config, verifier=str(folder))))
    scores = verifier.score_batch(rows.inputs(names, np.arange(len(rows))))
    for number, title in enumerate(rows.titles):
        made = writer.generate(by_title[title], threshold=0.5, temperature=0, max_new_tokens=6)
        written = [(t.id, t.origin) for t in made.tokens]
        places = np.flatnonzero(rows.prompt == number)
        # Every token but a bonus stands where the collection judged one; what was vouched for was kept.
        assert [s for s, (_, o) in enumerate(written) if o != "bonus"] == rows.step[places].tolist()
        for place in places:
            token, origin = written[rows.step[place]]
            assert (origin == "vouched") == (scores[place] >= 0.5)
            assert (token == rows.token[place]) == (origin in ("vouched", "tested"))


def test_every_backend_gives_the_same_rows(tiny_pair: Pair, prompts: list[Prompt], tmp_path: Path) -> None:
    fast = Pair(replace(tiny_pair.config, backend="fast", weights="float32"))
    for policy in ("exact", "draft"):
        tables = []
        for name, pair in (("hf", tiny_pair), ("fast", fast)):
            collect(pair, prompts[:4], tmp_path / policy / name, CollectSettings(policy, 4, (Sampling(0.0),), 4))
            tables.append(load_rows([tmp_path / policy / name]))
        assert (tables[0].token == tables[1].token).all()
        np.testing.assert_allclose(tables[0].labels, tables[1].labels, atol=1e-4)
        np.testing.assert_allclose(tables[0].scalars, tables[1].scalars, atol=1e-3)


def test_whoever_drafts_may_write_on_and_nobody_else() -> None:
    assert {"draft", "exact", "sprinter", "lookahead", "bild", "paper"} <= set(policies())
    with pytest.raises(ConfigError, match="policy is 'target'"):
        CollectSettings("target")
