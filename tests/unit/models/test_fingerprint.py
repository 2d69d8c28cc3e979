"""A model's fingerprint speaks of its tensors, not of the file they happen to be in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sprinter.errors import BackendError
from sprinter.models.checkpoint import open_checkpoint


def fingerprint(folder: Path, metadata: dict[str, str], value: float = 1.0, name: str = "w") -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({name: torch.full((3, 4), value), "b": torch.zeros(3)}, str(folder / "model.safetensors"), metadata)
    return open_checkpoint(folder).fingerprint


def test_metadata_and_its_order_do_not_change_a_fingerprint(tmp_path: Path) -> None:
    # The library draws the order of metadata anew in each call: with five keys, ten files are hardly ever all alike.
    metadata = {"format": "pt"} | {str(i): "x" for i in range(4)}
    found = {fingerprint(tmp_path / str(i), metadata) for i in range(10)}
    found.add(fingerprint(tmp_path / "other", {"format": "pt", "made": "elsewhere"}))
    assert len({(tmp_path / str(i) / "model.safetensors").read_bytes() for i in range(10)}) > 1
    assert len(found) == 1


def test_a_changed_value_or_name_changes_the_fingerprint(tmp_path: Path) -> None:
    metadata = {"format": "pt"}
    found = {
        fingerprint(tmp_path / "a", metadata),
        fingerprint(tmp_path / "b", metadata, value=1.0000001),
        fingerprint(tmp_path / "c", metadata, name="v"),
    }
    assert len(found) == 3


def test_a_damaged_file_has_no_fingerprint(tmp_path: Path) -> None:
    fingerprint(tmp_path / "a", {"format": "pt"})
    checkpoint = open_checkpoint(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"\xff" * 7)
    with pytest.raises(BackendError, match="damaged"):
        _ = checkpoint.fingerprint
