"""The GPU benchmark: one clear line without a GPU, and on the CPU every step of the way it would go on one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_steps
from sprinter.models.fast.model import FastModel
from tests.support.tiny import WIDTH
from tests.support.verifiers import random_verifier


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_it_says_so_and_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_steps.py", "--out", str(tmp_path / "out.json")])
    assert gpu_steps.main() == 2
    assert capsys.readouterr().err == "gpu_steps: this machine has no usable CUDA device, so nothing was measured\n"
    assert not (tmp_path / "out.json").exists()


def test_on_the_cpu_it_measures_what_it_would_on_a_gpu(
    tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draft, target = tiny_pair
    out = tmp_path / "out.json"
    monkeypatch.setattr(gpu_steps, "load_verifier", lambda path: random_verifier(WIDTH))
    arguments = ["--target", str(target), "--draft", str(draft), "--verifier", "made above", "--device", "cpu"]
    short = ["--context", "20", "--repeats", "1", "--copy-mib", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu_steps.py", "--out", str(out), *arguments, *short])
    assert gpu_steps.main() == 0
    written = json.loads(out.read_text())
    rows = {row["what"]: row for row in written["results"]}
    assert {"draft step, 1 row", "target step, 16 rows", "chunk of 8, temperature 1"} <= set(rows)
    info = FastModel.load(draft, "float32").info
    kv_bytes = 2 * info.num_layers * WIDTH // 2 * 96 * 4  # half as many key-value heads as heads, 96 positions
    step_mb = (info.bytes_per_step + kv_bytes) / 1e6
    assert rows["draft step, 1 row"]["mb_read"] == pytest.approx(step_mb, abs=0.01)
    assert rows["chunk of 8, temperature 1"]["mb_read"] == pytest.approx(8 * step_mb, abs=0.01)
    assert written["copy_gb_per_s"] > 0 and written["config"]["weights"] == "float32"
    table = capsys.readouterr().out
    assert all(name in table for name in rows)
