"""A GGUF file is the model it was made from, for every command, or it is refused by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from sprinter.errors import BackendError
from sprinter.models.checkpoint import open_checkpoint
from sprinter.models.fast.model import FastModel
from sprinter.models.gguf import converted
from sprinter.models.tokenizer import load_tokenizer, require_same
from sprinter.zoo.gguf_header import read_gguf
from tests.support.gguf_files import write_gguf
from tests.support.passes import read
from tests.support.tiny import save_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
IDS = list(range(2, 42))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPRINTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def logits_of(model: Any) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(model(torch.tensor([IDS])).logits[0, -5:])


def found(file: Path) -> np.ndarray:
    return np.asarray(read(FastModel.load(file, "float32"), IDS, 5).logits)


@pytest.mark.parametrize(
    ("family", "keys", "changes"),
    [
        ("llama", {}, {}),
        ("llama", {}, {"tie_word_embeddings": True}),
        ("llama", {}, {"rope_parameters": LLAMA3, "head_dim": 8}),
        (
            "llama",
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        ),
        ("llama", {"llama.rope.scaling.type": "none"}, {}),
        ("qwen2", {}, {"use_sliding_window": False}),
        ("qwen3", {}, {"use_sliding_window": False, "head_dim": 16}),
    ],
    ids=["llama", "tied", "llama3", "linear", "none", "qwen2", "qwen3"],
)
def test_a_gguf_file_computes_what_it_was_made_from(
    tmp_path: Path, family: str, keys: dict[str, Any], changes: dict[str, Any]
) -> None:
    model = write_gguf(tmp_path / "tiny.gguf", family, keys, **changes)
    assert np.abs(found(tmp_path / "tiny.gguf") - logits_of(model)).max() < 1e-3


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}, "rope.scaling.type"),
        ({"llama.rope.scaling.type": "linear"}, "rope.scaling.type"),
        ({"llama.attention.scale": 0.5}, "attention.scale"),
        ({"llama.logit_scale": 0.5}, "logit_scale"),
        ({"llama.expert_count": 4}, "expert_count"),
        ({"llama.attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
    ],
    ids=str,
)
def test_a_key_that_nobody_reads_is_refused_by_name(tmp_path: Path, keys: dict[str, Any], named: str) -> None:
    write_gguf(tmp_path / "tiny.gguf", "llama", keys)
    with pytest.raises(BackendError, match=named):
        open_checkpoint(tmp_path / "tiny.gguf")


def test_rope_factors_of_an_unknown_scaling_are_refused(tmp_path: Path) -> None:
    odd = {**LLAMA3, "low_freq_factor": 2.0, "original_max_position_embeddings": 64}
    write_gguf(tmp_path / "tiny.gguf", "llama", rope_parameters=odd, head_dim=8)
    with pytest.raises(BackendError, match="rope_freqs"):
        open_checkpoint(tmp_path / "tiny.gguf")


def test_it_is_converted_once_and_again_where_the_conversion_was_damaged(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    folder = converted(file)
    times = (folder / "model.safetensors").stat().st_mtime_ns
    assert converted(file) == folder == open_checkpoint(file).path
    assert (folder / "model.safetensors").stat().st_mtime_ns == times
    whole = (folder / "model.safetensors").read_bytes()
    fingerprint = open_checkpoint(file).fingerprint
    (folder / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert open_checkpoint(file).fingerprint == fingerprint
    assert [p.name for p in (cache / "gguf").iterdir()] == [folder.name]


def test_end_ids_and_templates_come_with_it(tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 9}
    named = {"tokenizer.chat_template.tool_use": "tools {{ tools | length }}"}
    write_gguf(tmp_path / "tiny.gguf", "llama", {**keys, **named})
    tokenizer = load_tokenizer(tmp_path / "tiny.gguf")
    assert tokenizer.eos_ids == {1, 7, 9}
    assert tokenizer.decode(tokenizer.encode_chat("the land")) == "[the land]"
    assert tokenizer.decode(tokenizer.encode_chat("the land", tools=[{}, {}])) == "tools 2"


def test_a_folder_with_the_same_tokenizer_fits_it(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    save_tokenizer(tmp_path / "folder")
    require_same(load_tokenizer(tmp_path / "folder"), load_tokenizer(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize("name", ["tiny.GGUF", "tiny", "tiny.bin"])
def test_it_is_known_by_its_content_whatever_its_name(tmp_path: Path, name: str) -> None:
    write_gguf(tmp_path / "made.gguf")
    (tmp_path / "made.gguf").rename(tmp_path / name)
    assert open_checkpoint(tmp_path / name).config["model_type"] == "llama"


def damaged(whole: bytes, kind: str) -> bytes:
    known = {
        "big-endian": whole[:4] + whole[4:8][::-1] + whole[8:],
        "version 9": whole[:4] + (9).to_bytes(4, "little") + whole[8:],
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
        "many tensors": whole[:8] + (1 << 60).to_bytes(8, "little") + whole[16:],
        "many keys": whole[:16] + (1 << 60).to_bytes(8, "little") + whole[24:],
        "long key": whole[:24] + (1 << 62).to_bytes(8, "little") + whole[32:],
        "empty": b"",
    }
    return known[kind] if kind in known else whole[: int(len(whole) * float(kind))]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("big-endian", "big-endian"),
        ("version 9", "version is 9"),
        ("a pointer", "git lfs pull"),
        ("many tensors", "more tensors"),
        ("many keys", "more tensors or keys"),
        ("long key", "ends within its header"),
        ("0.0002", "ends within its header"),
        ("0.01", "ends within its header"),
        ("0.5", "file ends before"),
        ("0.99", "file ends before"),
        ("empty", "does not begin as one"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_that_says_how(tmp_path: Path, kind: str, words: str) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    file.write_bytes(damaged(file.read_bytes(), kind))
    with pytest.raises(BackendError, match=words) as caught:
        open_checkpoint(file)
    assert "\n" not in str(caught.value)


def test_a_part_of_a_split_model_says_how_to_join_it(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny-00001-of-00003.gguf", "llama", {"split.count": 3})
    with pytest.raises(BackendError, match="one of 3 parts: join them"):
        open_checkpoint(tmp_path / "tiny-00001-of-00003.gguf")


def test_an_unknown_architecture_and_missing_keys_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "odd.gguf"), "unheard")
    writer.add_tensor("x", np.zeros((1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BackendError, match="cannot be converted") as caught:
        open_checkpoint(tmp_path / "odd.gguf")
    assert "\n" not in str(caught.value)


def test_the_header_holds_what_the_library_reads(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", "llama", {"general.name": "tiny"})
    ours, theirs = read_gguf(tmp_path / "tiny.gguf"), gguf.GGUFReader(str(tmp_path / "tiny.gguf"))
    told = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert dict(ours.fields) == told
    for tensor in theirs.tensors:
        assert np.array_equal(ours.tensor(tensor.name).ravel(), np.asarray(tensor.data).ravel())


def test_a_disk_that_is_too_full_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    usage = os.statvfs(tmp_path)
    assert usage.f_bavail
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 10})())
    with pytest.raises(BackendError, match="free some space"):
        open_checkpoint(tmp_path / "tiny.gguf")
